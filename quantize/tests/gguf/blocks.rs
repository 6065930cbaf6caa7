use std::path::{Path, PathBuf};

use muse_quantize::checkpoint::{self, GroupKind, Native, TensorSource, gguf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

/// The tensors of `scripts/golden/gguf_blocks.py` in the order of their values, with the type that each layer has.
const KINDS: [(&str, Native); 13] = [
    ("F32", Native::F32),
    ("F16", Native::F16),
    ("BF16", Native::Bf16),
    ("Q4_0", Native::Groups(GroupKind::Q4)),
    ("Q4_1", Native::Groups(GroupKind::Q4Asym)),
    ("Q5_0", Native::Groups(GroupKind::Q8)),
    ("Q5_1", Native::Other("Q5_1")),
    ("Q8_0", Native::Groups(GroupKind::Q8)),
    ("Q4_K", Native::Groups(GroupKind::Q4Asym)),
    ("Q5_K", Native::Other("Q5_K")),
    ("Q6_K", Native::Other("Q6_K")),
    ("IQ4_NL", Native::Groups(GroupKind::Q4Codebook)),
    ("IQ4_XS", Native::Groups(GroupKind::Q4Codebook)),
];

/// The values of a tensor's groups, and by how much each may differ where scale and offset were rounded to f16:
/// `(|q * scale| + |offset|) * 2^-11`, and half the smallest f16 for each product where they are subnormal.
fn values_of_groups(tensor: &dyn TensorSource) -> Vec<(f32, f32)> {
    let rows = (0..tensor.shape().0).map(|row| tensor.groups(row).expect("the row's groups"));
    let float = |bits| half::f16::from_bits(bits).to_f32();
    let values = |g: checkpoint::Group| {
        let (scale, offset) = (float(g.scale), float(g.offset));
        g.quants.map(|q| {
            let q = f32::from(q);
            // One more part in 2^11, as the bound is taken from the rounded numbers.
            let slack = ((q * scale).abs() + offset.abs()) * (1.0 + 2f32.powi(-11)) * 2f32.powi(-11);
            (q * scale + offset, slack + (q.abs() + 1.0) * 2f32.powi(-25))
        })
    };
    rows.flatten().flat_map(values).collect()
}

#[test]
fn every_storage_type_has_the_values_that_the_gguf_package_gives() {
    let checkpoint = gguf::open(&fixture("blocks.gguf")).expect("the fixture opens");
    let bytes = std::fs::read(fixture("blocks.f32")).expect("the fixture is there");
    let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut rest = expected.as_slice();
    let names = (0..KINDS.len()).map(|layer| format!("model.layers.{layer}.mlp.up_proj.weight"));
    let query = ("model.layers.0.self_attn.q_proj.weight".to_owned(), KINDS[3]);
    for (name, (kind, native)) in names.zip(KINDS).chain([query]) {
        let tensor = &checkpoint.tensors[&name];
        let (rows, cols) = tensor.shape();
        let expected = rest.split_off(..rows * cols).expect("the values go on");
        assert_eq!(tensor.native(), native, "{kind}");
        let mut all = vec![f32::NAN; rows * cols];
        tensor.read(0..rows, &mut all).expect("the tensor reads");
        assert_eq!(all, expected, "{name} {kind}");
        // A part of the rows, from the middle.
        let mut last = vec![f32::NAN; cols];
        tensor.read(rows - 1..rows, &mut last).expect("the last row reads");
        assert_eq!(last, expected[(rows - 1) * cols..], "{name} {kind}, the last row");
        if let Native::Groups(_) = native {
            let values = values_of_groups(tensor.as_ref());
            assert_eq!(values.len(), expected.len());
            for ((value, slack), expected) in values.into_iter().zip(expected) {
                let slack = if matches!(kind, "Q4_K" | "IQ4_XS") { slack } else { 0.0 };
                assert!((value - expected).abs() <= slack, "{name} {kind}: {value} and {expected}");
            }
        }
    }
    assert!(rest.is_empty(), "{} values were not asked for", rest.len());
}
