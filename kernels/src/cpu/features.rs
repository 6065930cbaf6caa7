use std::fmt;

/// What this CPU can do. Only [`Features::detect`] makes one and nothing adds to it, so holding a feature is evidence
/// that its instructions may be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Bit `i` is `LEVELS[i]`.
    bits: u8,
}

/// A set of instructions that is used as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Level {
    /// x86-64 AVX2, FMA and F16C.
    Avx2,
    /// x86-64 AVX-512 F, BW, DQ, VL and VNNI, with all of [`Level::Avx2`].
    Avx512Vnni,
    /// x86-64 AVX-512 BF16, with [`Level::Avx512Vnni`].
    Avx512Bf16,
    /// aarch64 Advanced SIMD.
    Neon,
    /// aarch64 `sdot`, with [`Level::Neon`].
    NeonDotprod,
    /// aarch64 `smmla`, with [`Level::NeonDotprod`].
    NeonI8mm,
}

/// Worst first.
const LEVELS: [(Level, &str); 6] = [
    (Level::Avx2, "avx2"),
    (Level::Avx512Vnni, "avx512-vnni"),
    (Level::Avx512Bf16, "avx512-bf16"),
    (Level::Neon, "neon"),
    (Level::NeonDotprod, "neon-dotprod"),
    (Level::NeonI8mm, "neon-i8mm"),
];

#[cfg(target_arch = "x86_64")]
fn detected(level: Level) -> bool {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("fma") && has!("f16c");
    match level {
        Level::Avx2 => avx2,
        Level::Avx512Vnni => {
            let base = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            avx2 && base && has!("avx512vnni")
        }
        Level::Avx512Bf16 => detected(Level::Avx512Vnni) && has!("avx512bf16"),
        Level::Neon | Level::NeonDotprod | Level::NeonI8mm => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn detected(level: Level) -> bool {
    use std::arch::is_aarch64_feature_detected as has;
    match level {
        Level::Avx2 | Level::Avx512Vnni | Level::Avx512Bf16 => false,
        Level::Neon => has!("neon"),
        Level::NeonDotprod => has!("neon") && has!("dotprod"),
        Level::NeonI8mm => has!("neon") && has!("dotprod") && has!("i8mm"),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detected(_: Level) -> bool {
    false
}

impl Features {
    /// Asks the CPU.
    pub fn detect() -> Self {
        let bits =
            LEVELS.iter().filter(|(level, _)| detected(*level)).map(|(level, _)| 1 << *level as u8).sum();
        Self { bits }
    }

    pub(crate) fn has(self, level: Level) -> bool {
        self.bits & 1 << level as u8 != 0
    }

    /// This set, then the set without its best level, and so on down to no feature at all: what tests and benches
    /// walk so that a strong machine also runs the weaker variants.
    pub fn and_weaker(self) -> impl Iterator<Item = Self> {
        let without_best = |set: &Self| {
            let best = set.bits.checked_ilog2()?;
            Some(Self { bits: set.bits & !(1 << best) })
        };
        std::iter::successors(Some(self), without_best)
    }
}

/// The best level by name: `avx512-vnni`; `generic` for none.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let best = LEVELS.iter().rev().find(|(level, _)| self.has(*level));
        f.write_str(best.map_or("generic", |(_, name)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weaker_sets_lose_one_level_at_a_time_and_end_with_none() {
        let sets: Vec<_> = Features::detect().and_weaker().collect();
        assert_eq!(sets.len(), Features::detect().bits.count_ones() as usize + 1);
        for pair in sets.windows(2) {
            assert_eq!(pair[0].bits & pair[1].bits, pair[1].bits);
        }
        assert_eq!(sets.last().unwrap().to_string(), "generic");
    }
}
