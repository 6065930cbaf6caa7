//! Which layout a tensor gets.

use muse_format::{Layout, Role};

use crate::checkpoint::{GroupKind, Native};

/// Bits of a stored weight, scales aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    Four,
    Eight,
    Sixteen,
    ThirtyTwo,
}

/// How 4 bits stand for a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// 16 even steps around zero.
    Symmetric,
    /// 16 even steps from an offset that each group has.
    Asymmetric,
    /// The 16 uneven steps of [`muse_format::CODEBOOK`].
    Codebook,
}

/// What the person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Of matrices; `None` keeps what the source has.
    pub bits: Option<Bits>,
    /// Of the embedding and the head, where they differ from the other matrices.
    pub embed_bits: Option<Bits>,
    /// 32, 64 or 128.
    pub group: u16,
    /// Of 4-bit weights.
    pub scheme: Scheme,
}

/// How the bytes of a tensor come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// The source's own groups.
    Kept(Layout),
    /// Rounded to this layout (exact where the layout is f32, or the source's own float).
    Rounded(Layout),
    /// f16, or bf16 where a value exceeds f16: known when the tensor was read once.
    F16IfItFits,
}

impl Policy {
    /// The storage of a tensor. Vectors are f32 always, and routers a float: bits that they would save are few, and a
    /// wrong expert costs much. Where the source's groups already are what is asked for, they
    /// are kept. Without `bits`:
    ///
    /// | source | stored as |
    /// |---|---|
    /// | F32, F16, BF16 | the same |
    /// | Q4_0, Q4_1, Q8_0 | q4g32, q4ag32, q8g32, bit for bit |
    /// | Q5_0 | q8g32, the same numbers |
    /// | IQ4_NL | q4cg32, bit for bit |
    /// | IQ4_XS | q4cg32, the same levels, the product of its two scales rounded to f16 |
    /// | Q4_K | q4ag32, the same integers, the product of its two scales rounded to f16 |
    /// | Q5_1, Q5_K, Q6_K and any other | q8g32, rounded |
    pub fn storage(&self, name: &str, role: Role, native: Native) -> Storage {
        if role == Role::Vector {
            return Storage::Rounded(Layout::F32);
        }
        let outer = matches!(name, "embed" | "head" | "per_layer.table");
        let bits = if outer { self.embed_bits.or(self.bits) } else { self.bits };
        // Tables that are small and added to every token stay floats too.
        let float = role == Role::Router || matches!(name, "positions" | "types");
        if float && self.bits != Some(Bits::ThirtyTwo) {
            return Storage::Rounded(match native {
                Native::F16 => Layout::F16,
                Native::Bf16 => Layout::Bf16,
                Native::F32 | Native::Groups(_) | Native::Other(_) => Layout::F32,
            });
        }
        let own = match native {
            Native::Groups(GroupKind::Q8) => Some(Layout::Q8 { group: 32 }),
            Native::Groups(GroupKind::Q4) => Some(Layout::Q4 { group: 32 }),
            Native::Groups(GroupKind::Q4Asym) => Some(Layout::Q4Asym { group: 32 }),
            Native::Groups(GroupKind::Q4Codebook) => Some(Layout::Q4Codebook { group: 32 }),
            Native::F32 | Native::F16 | Native::Bf16 | Native::Other(_) => None,
        };
        let group = self.group;
        let layout = match (bits, native) {
            (None, Native::F32) | (Some(Bits::ThirtyTwo), _) => Layout::F32,
            (None | Some(Bits::Sixteen), Native::F16) => Layout::F16,
            (None | Some(Bits::Sixteen), Native::Bf16) => Layout::Bf16,
            (None, Native::Other(_)) => Layout::Q8 { group: 32 },
            (None, Native::Groups(_)) => return Storage::Kept(own.expect("groups have a layout")),
            (Some(Bits::Sixteen), _) => return Storage::F16IfItFits,
            (Some(Bits::Eight), _) => Layout::Q8 { group },
            (Some(Bits::Four), _) => match self.scheme {
                Scheme::Symmetric => Layout::Q4 { group },
                Scheme::Asymmetric => Layout::Q4Asym { group },
                Scheme::Codebook => Layout::Q4Codebook { group },
            },
        };
        if own == Some(layout) { Storage::Kept(layout) } else { Storage::Rounded(layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q8: Layout = Layout::Q8 { group: 32 };
    const Q4: Layout = Layout::Q4 { group: 32 };
    const Q4_ASYM: Layout = Layout::Q4Asym { group: 32 };
    const Q4_CODEBOOK: Layout = Layout::Q4Codebook { group: 32 };

    fn policy(bits: Option<Bits>) -> Policy {
        Policy { bits, embed_bits: None, group: 32, scheme: Scheme::Symmetric }
    }

    #[test]
    fn without_bits_the_source_decides() {
        let cases = [
            (Native::F32, Storage::Rounded(Layout::F32)),
            (Native::F16, Storage::Rounded(Layout::F16)),
            (Native::Bf16, Storage::Rounded(Layout::Bf16)),
            (Native::Groups(GroupKind::Q8), Storage::Kept(Q8)),
            (Native::Groups(GroupKind::Q4), Storage::Kept(Q4)),
            (Native::Groups(GroupKind::Q4Asym), Storage::Kept(Q4_ASYM)),
            (Native::Groups(GroupKind::Q4Codebook), Storage::Kept(Q4_CODEBOOK)),
            (Native::Other("Q5_1"), Storage::Rounded(Q8)),
            (Native::Other("Q6_K"), Storage::Rounded(Q8)),
        ];
        for (native, expected) in cases {
            let storage = policy(None).storage("l0.attn.q", Role::Matrix, native);
            assert_eq!(storage, expected, "{native:?}");
            let vector = policy(None).storage("norm", Role::Vector, native);
            assert_eq!(vector, Storage::Rounded(Layout::F32), "a vector in {native:?}");
        }
    }

    #[test]
    fn with_bits_groups_are_kept_only_where_they_are_what_is_asked_for() {
        let groups = |kind| Native::Groups(kind);
        let four = Some(Bits::Four);
        let asymmetric = Policy { scheme: Scheme::Asymmetric, ..policy(four) };
        let codebook = Policy { scheme: Scheme::Codebook, ..policy(four) };
        let wide = Policy { group: 64, ..policy(four) };
        let cases = [
            (policy(four), groups(GroupKind::Q4), Storage::Kept(Q4)),
            (policy(four), groups(GroupKind::Q4Asym), Storage::Rounded(Q4)),
            (asymmetric, groups(GroupKind::Q4Asym), Storage::Kept(Q4_ASYM)),
            (codebook, groups(GroupKind::Q4Codebook), Storage::Kept(Q4_CODEBOOK)),
            (codebook, groups(GroupKind::Q4), Storage::Rounded(Q4_CODEBOOK)),
            (policy(four), groups(GroupKind::Q4Codebook), Storage::Rounded(Q4)),
            (wide, groups(GroupKind::Q4), Storage::Rounded(Layout::Q4 { group: 64 })),
            (policy(Some(Bits::Eight)), groups(GroupKind::Q8), Storage::Kept(Q8)),
            (policy(Some(Bits::Eight)), Native::Bf16, Storage::Rounded(Q8)),
            (policy(Some(Bits::Sixteen)), Native::Bf16, Storage::Rounded(Layout::Bf16)),
            (policy(Some(Bits::Sixteen)), Native::F16, Storage::Rounded(Layout::F16)),
            (policy(Some(Bits::Sixteen)), Native::F32, Storage::F16IfItFits),
            (policy(Some(Bits::Sixteen)), groups(GroupKind::Q4), Storage::F16IfItFits),
            (policy(Some(Bits::ThirtyTwo)), groups(GroupKind::Q8), Storage::Rounded(Layout::F32)),
        ];
        for (policy, native, expected) in cases {
            assert_eq!(policy.storage("l0.attn.q", Role::Matrix, native), expected, "{policy:?} {native:?}");
        }
    }

    #[test]
    fn a_router_is_never_quantized() {
        let natives = [
            (Native::F32, Layout::F32),
            (Native::Bf16, Layout::Bf16),
            (Native::F16, Layout::F16),
            (Native::Groups(GroupKind::Q8), Layout::F32),
            (Native::Other("Q6_K"), Layout::F32),
        ];
        for (native, expected) in natives {
            for bits in [None, Some(Bits::Four), Some(Bits::Eight), Some(Bits::Sixteen)] {
                let storage = policy(bits).storage("l0.experts.router", Role::Router, native);
                assert_eq!(storage, Storage::Rounded(expected), "{native:?} {bits:?}");
            }
            let exact = policy(Some(Bits::ThirtyTwo)).storage("l0.experts.router", Role::Router, native);
            assert_eq!(exact, Storage::Rounded(Layout::F32), "{native:?}");
        }
    }

    #[test]
    fn embedding_and_head_may_have_bits_of_their_own() {
        let policy = Policy { embed_bits: Some(Bits::Eight), ..policy(Some(Bits::Four)) };
        for (name, role, expected) in
            [("embed", Role::Table, Q8), ("head", Role::Matrix, Q8), ("l0.ffn.up", Role::Matrix, Q4)]
        {
            assert_eq!(policy.storage(name, role, Native::F32), Storage::Rounded(expected), "{name}");
        }
    }
}
