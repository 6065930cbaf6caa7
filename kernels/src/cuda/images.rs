//! The kernels as `scripts/cubins.sh` compiled and compressed them: which of them a GPU loads. The others stay compressed.

use std::io::Read;
use std::ops::RangeInclusive;
use std::sync::Arc;

use flate2::read::GzDecoder;

use super::driver::{Context, Module};
use crate::CudaError;

/// The oldest GPU that the PTX is for.
const SM_MIN: u32 = 80;
/// Most bytes of an image. None has more than 3 million.
const BYTES_MAX: u32 = 32 << 20;

/// A file of `kernels/cuda/images/`.
#[derive(Debug, Clone, Copy)]
struct Image {
    name: &'static str,
    gzip: &'static [u8],
}

macro_rules! image {
    ($name:literal) => {
        Image { name: $name, gzip: include_bytes!(concat!("../../cuda/images/", $name, ".gz")) }
    };
}

/// Kernels compiled for some GPUs. A later minor version of a compute capability runs what an earlier one does, but not on
/// or from a Tegra, which 8.7 and 11.0 are.
const CUBINS: [(RangeInclusive<u32>, Image); 4] = [
    (87..=87, image!("sm_87.cubin")),
    (90..=99, image!("sm_90.cubin")),
    (110..=110, image!("sm_110.cubin")),
    (120..=129, image!("sm_120.cubin")),
];

/// For any other, compiled by its driver at load.
const PTX: Image = image!("compute_80.ptx");

impl Image {
    fn decompressed(self) -> Result<Vec<u8>, CudaError> {
        let damaged = |problem| CudaError::DamagedImage { image: self.name, problem };
        // The last four bytes of a gzip file are its length, which the decoder compares, and the checksum before them.
        let len = self.gzip.last_chunk().map_or(0, |len| u32::from_le_bytes(*len));
        if len > BYTES_MAX {
            return Err(damaged(format!("{len} bytes, of {BYTES_MAX} at most")));
        }
        let mut bytes = Vec::with_capacity(len as usize + 1);
        let mut decoder = GzDecoder::new(self.gzip).take(u64::from(len) + 1);
        decoder.read_to_end(&mut bytes).map_err(|error| damaged(error.to_string()))?;
        match bytes.len() == len as usize {
            true => Ok(bytes),
            false => Err(damaged(format!("longer than {len} bytes"))),
        }
    }

    fn load(self, context: &Arc<Context>, names: &[&'static str]) -> Result<Module, CudaError> {
        let mut bytes = self.decompressed()?;
        bytes.push(0); // where a text ends
        Module::load(context, &bytes, names)
    }
}

fn cubin_for(sm: u32) -> Option<Image> {
    CUBINS.iter().find(|(sms, _)| sms.contains(&sm)).map(|(_, image)| *image)
}

/// Where loaded kernels come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The file of this name.
    Cubin(&'static str),
    /// The PTX: there is none for this GPU.
    Ptx,
    /// The PTX: the driver refused the one that there is, for this.
    PtxAfter(String),
}

/// `names` of the kernels for a device: of the cubin for it, or of the PTX, also where its driver refuses the cubin.
pub(super) fn load(context: &Arc<Context>, names: &[&'static str]) -> Result<(Module, Origin), CudaError> {
    if context.sm < SM_MIN {
        let device = context.name.clone();
        return Err(CudaError::OldDevice { device, sm: context.sm, needed: SM_MIN });
    }
    let refused = match cubin_for(context.sm).map(|image| (image.name, image.load(context, names))) {
        None => return Ok((PTX.load(context, names)?, Origin::Ptx)),
        Some((name, Ok(module))) => return Ok((module, Origin::Cubin(name))),
        Some((_, Err(CudaError::Image { problem, .. }))) => problem,
        Some((_, Err(other))) => return Err(other),
    };
    match PTX.load(context, names) {
        Ok(module) => Ok((module, Origin::PtxAfter(refused))),
        Err(CudaError::Image { sm, problem }) => {
            Err(CudaError::Image { sm, problem: format!("{refused}; compiling them: {problem}") })
        }
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::launch::NAMES;
    use super::*;

    #[test]
    fn every_kernel_is_in_every_image() {
        assert!(NAMES.is_sorted());
        let ptx = String::from_utf8(PTX.decompressed().unwrap()).unwrap();
        for name in NAMES {
            assert!(ptx.contains(&format!(".entry {name}(")), "the PTX lacks {name}: run scripts/cubins.sh");
        }
        // The newest that the oldest driver knows (`DRIVER_MIN` of driver.rs), and what its GPUs have.
        assert!(ptx.contains("\n.version 8.5\n.target sm_80\n"), "{}", &ptx[..200]);
        assert_eq!(ptx.matches(".entry ").count(), NAMES.len(), "a kernel that nothing names");
        for (_, image) in CUBINS {
            let cubin = image.decompressed().unwrap();
            // In a table of names each ends with a zero byte.
            let held: std::collections::HashSet<_> = cubin.split(|byte| *byte == 0).collect();
            for name in NAMES {
                assert!(held.contains(name.as_bytes()), "{} lacks {name}: run scripts/cubins.sh", image.name);
            }
        }
    }

    #[test]
    fn a_gpu_gets_what_runs_on_it() {
        for (sm, expected) in [
            (80, None),
            (86, None),
            (87, Some("sm_87.cubin")),
            (89, None), // no Tegra
            (90, Some("sm_90.cubin")),
            (100, None),
            (103, None),
            (110, Some("sm_110.cubin")),
            (111, None),
            (120, Some("sm_120.cubin")),
            (121, Some("sm_120.cubin")),
            (130, None),
        ] {
            assert_eq!(cubin_for(sm).map(|image| image.name), expected, "sm_{sm}");
        }
    }

    #[test]
    fn a_damaged_image_is_refused() {
        let whole = PTX.gzip;
        let with = |at: usize, bits: u8| {
            let mut bytes = whole.to_vec();
            bytes[at] ^= bits;
            bytes
        };
        let end = whole.len();
        let cases = [
            ("none", Vec::new(), "end of file"),
            ("cut in the middle", whole[..end / 2].to_vec(), ""),
            ("another format", with(0, 1), "invalid gzip header"),
            ("another number", with(end / 2, 1), ""),
            ("another checksum", with(end - 8, 1), "checksum"),
            ("one byte shorter", with(end - 4, 1), ""),
            ("as long as can be", with(end - 1, 0x80), "of 33554432 at most"),
        ];
        for (case, bytes, expected) in cases {
            let image = Image { name: "some.ptx", gzip: bytes.leak() };
            let error = image.decompressed().expect_err(case).to_string();
            assert!(error.contains("some.ptx") && error.contains(expected), "{case}: {error}");
        }
    }
}
