//! What the arithmetic units can give: loops of one instruction over registers alone, for benches to time as ceilings.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;

use super::features::Features;
#[cfg(target_arch = "x86_64")]
use super::features::Level;

/// A loop that does nothing but multiply and add.
pub struct Peak {
    /// `f32`, `int16`, `int8` or `bf16`, with the width of its registers.
    pub name: &'static str,
    /// Multiplications and additions of one round.
    pub ops_per_round: u64,
    supported: fn(Features) -> bool,
    /// # Safety
    /// `supported` returned true for the features of this CPU.
    run: unsafe fn(rounds: u64),
}

impl Peak {
    /// The loops that this CPU can run.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        let features = Features::detect();
        PEAKS.iter().filter(move |peak| (peak.supported)(features))
    }

    /// # Panics
    /// Never for a loop out of [`all`](Self::all), the only way to one.
    pub fn run(&self, rounds: u64) {
        assert!((self.supported)(Features::detect()));
        // SAFETY: asserted above.
        unsafe { (self.run)(rounds) }
    }
}

/// Twelve sums, so that none waits for itself: `$one` names the instructions of one sum, `{sum}` left to fill in.
#[cfg(target_arch = "x86_64")]
macro_rules! rounds {
    ($name:ident, $one:literal) => {
        unsafe fn $name(rounds: u64) {
            // SAFETY: registers alone are touched, and the caller has the instructions.
            unsafe {
                asm!(
                    "vpxor xmm14, xmm14, xmm14",
                    "vpxor xmm15, xmm15, xmm15",
                    "2:",
                    ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
                    $one,
                    ".endr",
                    "dec {rounds}",
                    "jnz 2b",
                    rounds = inout(reg) rounds.max(1) => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
                    out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack)
                );
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
rounds!(f32_256, "vfmadd231ps ymm\\sum, ymm14, ymm15");
#[cfg(target_arch = "x86_64")]
rounds!(int16_256, "vpmaddwd ymm13, ymm14, ymm15\n vpaddd ymm\\sum, ymm\\sum, ymm13");
#[cfg(target_arch = "x86_64")]
rounds!(
    int8_256,
    "vpmaddubsw ymm13, ymm14, ymm15\n vpmaddwd ymm13, ymm13, ymm15\n vpaddd ymm\\sum, ymm\\sum, ymm13"
);
#[cfg(target_arch = "x86_64")]
rounds!(f32_512, "vfmadd231ps zmm\\sum, zmm14, zmm15");
#[cfg(target_arch = "x86_64")]
rounds!(int16_512, "vpdpwssd zmm\\sum, zmm14, zmm15");
#[cfg(target_arch = "x86_64")]
rounds!(int8_512, "vpdpbusd zmm\\sum, zmm14, zmm15");

#[cfg(target_arch = "x86_64")]
rounds!(bf16_512, "vdpbf16ps zmm\\sum, zmm14, zmm15");

#[cfg(target_arch = "x86_64")]
const PEAKS: &[Peak] = &[
    Peak { name: "f32 x 8", ops_per_round: 12 * 16, supported: |f| f.has(Level::Avx2), run: f32_256 },
    Peak { name: "int16 x 16", ops_per_round: 12 * 32, supported: |f| f.has(Level::Avx2), run: int16_256 },
    Peak { name: "int8 x 32", ops_per_round: 12 * 64, supported: |f| f.has(Level::Avx2), run: int8_256 },
    Peak { name: "f32 x 16", ops_per_round: 12 * 32, supported: |f| f.has(Level::Avx512Vnni), run: f32_512 },
    Peak {
        name: "int16 x 32",
        ops_per_round: 12 * 64,
        supported: |f| f.has(Level::Avx512Vnni),
        run: int16_512,
    },
    Peak {
        name: "int8 x 64",
        ops_per_round: 12 * 128,
        supported: |f| f.has(Level::Avx512Vnni),
        run: int8_512,
    },
    Peak {
        name: "bf16 x 32",
        ops_per_round: 12 * 64,
        supported: |f| f.has(Level::Avx512Bf16),
        run: bf16_512,
    },
];

#[cfg(not(target_arch = "x86_64"))]
const PEAKS: &[Peak] = &[];
