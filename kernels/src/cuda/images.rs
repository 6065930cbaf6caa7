//! The kernels as `scripts/cubins.sh` compiled and compressed them: which of them a GPU loads. The others stay compressed.

use std::io::Read;
use std::ops::RangeInclusive;
use std::sync::Arc;

use flate2::read::GzDecoder;

use super::driver::{Context, Module};
use crate::CudaError;

/// The oldest GPU that the PTX is for.
const SM_MIN: u32 = 80;

/// A file of `kernels/cuda/images/`.
#[derive(Debug, Clone, Copy)]
struct Image(&'static [u8]);

macro_rules! image {
    ($name:literal) => {
        Image(include_bytes!(concat!("../../cuda/images/", $name, ".gz")))
    };
}

/// Kernels compiled for some GPUs, the first of those that run them. A later minor version of a compute capability runs what
/// an earlier one does, but not on or from a Tegra, which 8.7 and 11.0 are.
static CUBINS: [(RangeInclusive<u32>, Image); 4] = [
    (87..=87, image!("sm_87.cubin")),
    (90..=99, image!("sm_90.cubin")),
    (110..=110, image!("sm_110.cubin")),
    (120..=129, image!("sm_120.cubin")),
];

/// For any other, compiled by its driver at load.
const PTX: Image = image!("compute_80.ptx");

impl Image {
    fn decompressed(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // What is wrong with a file fails `every_kernel_is_in_every_image`.
        GzDecoder::new(self.0).read_to_end(&mut bytes).expect("the build embeds whole images");
        bytes
    }

    fn load(self, context: &Arc<Context>, names: &[&'static str]) -> Result<Module, CudaError> {
        let mut bytes = self.decompressed();
        bytes.push(0); // where a text ends
        Module::load(context, &bytes, names)
    }
}

fn cubin_for(sm: u32) -> Option<&'static (RangeInclusive<u32>, Image)> {
    CUBINS.iter().find(|(sms, _)| sms.contains(&sm))
}

/// Where loaded kernels come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Compiled for this GPU.
    Cubin,
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
    let refused = match cubin_for(context.sm).map(|(_, image)| image.load(context, names)) {
        None => return Ok((PTX.load(context, names)?, Origin::Ptx)),
        Some(Ok(module)) => return Ok((module, Origin::Cubin)),
        Some(Err(CudaError::Image { problem, .. })) => problem,
        Some(Err(other)) => return Err(other),
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
        let ptx = String::from_utf8(PTX.decompressed()).unwrap();
        for name in NAMES {
            assert!(ptx.contains(&format!(".entry {name}(")), "the PTX lacks {name}: run scripts/cubins.sh");
        }
        // The newest that the oldest driver knows (`DRIVER_MIN` of driver.rs), and what its GPUs have.
        assert!(ptx.contains("\n.version 8.5\n.target sm_80\n"), "{}", &ptx[..200]);
        assert_eq!(ptx.matches(".entry ").count(), NAMES.len(), "a kernel that nothing names");
        for (sms, image) in &CUBINS {
            let cubin = image.decompressed();
            // In a table of names each ends with a zero byte.
            let held: std::collections::HashSet<_> = cubin.split(|byte| *byte == 0).collect();
            for name in NAMES {
                assert!(
                    held.contains(name.as_bytes()),
                    "the cubin of sm_{} lacks {name}: run scripts/cubins.sh",
                    sms.start()
                );
            }
        }
    }

    #[test]
    fn a_gpu_gets_what_runs_on_it() {
        for (sm, expected) in [
            (80, None),
            (86, None),
            (87, Some(87)),
            (89, None), // no Tegra
            (90, Some(90)),
            (100, None),
            (103, None),
            (110, Some(110)),
            (111, None),
            (120, Some(120)),
            (121, Some(120)),
            (130, None),
        ] {
            assert_eq!(cubin_for(sm).map(|(sms, _)| *sms.start()), expected, "sm_{sm}");
        }
    }
}
