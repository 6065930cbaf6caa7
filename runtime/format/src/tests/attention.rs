use super::{meta, refuses_field, spec, write};
use crate::*;

/// Two layers, the second with the first's keys and values, and vectors of both.
fn spec_with_shared_keys() -> Spec {
    let mut spec = spec();
    spec.per_layer = Some(PerLayer {
        dim: 4,
        table_scale: 2.0,
        projection_scale: 0.25,
        scale: 0.7,
        activation: Activation::GeluTanh,
    });
    let mut second = spec.layers[0].clone();
    second.attention_mut().unwrap().kv_from = Some(0);
    second.scaled = true;
    spec.layers.push(second);
    spec
}

#[test]
fn a_layer_that_takes_keys_over_has_none_and_each_has_its_vectors() {
    let meta = Meta { spec: spec_with_shared_keys(), ..meta() };
    let bytes = write(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    let table = file.tensor("per_layer.table").unwrap();
    assert_eq!((table.rows, table.cols), (40, 8));
    for (name, there) in [
        ("l0.attn.k", true),
        ("l0.attn.k_norm", true),
        ("l1.attn.q", true),
        ("l1.attn.q_norm", true),
        ("l1.attn.k", false),
        ("l1.attn.v_bias", false),
        ("l1.attn.k_norm", false),
        ("l1.per_layer.gate", true),
        ("l0.scale", false),
        ("l1.scale", true),
    ] {
        assert_eq!(file.tensor(name).is_some(), there, "{name}");
    }
}

#[test]
fn keys_are_taken_only_from_an_earlier_layer_of_the_same_shape() {
    spec_with_shared_keys().validate().unwrap();
    type Change = fn(&mut Spec);
    let cases: [(&str, Change); 7] = [
        ("itself", |s| s.layers[1].attention_mut().unwrap().kv_from = Some(1)),
        ("a later one", |s| s.layers[0].attention_mut().unwrap().kv_from = Some(1)),
        ("none", |s| s.layers[1].attention_mut().unwrap().kv_from = Some(u32::MAX)),
        ("another width", |s| s.layers[0].attention_mut().unwrap().head_dim = 6),
        ("another window", |s| s.layers[1].attention_mut().unwrap().window = Some(4)),
        ("another chunk", |s| s.layers[1].attention_mut().unwrap().chunk = Some(4)),
        ("one that has none itself", |s| {
            let mut third = s.layers[1].clone();
            third.attention_mut().unwrap().kv_from = Some(1);
            s.layers.push(third);
        }),
    ];
    for (name, change) in cases {
        let mut spec = spec_with_shared_keys();
        change(&mut spec);
        let error = spec.validate().unwrap_err().to_string();
        assert!(error.contains("kv_from must name an earlier layer"), "{name}: {error}");
    }
}

#[test]
fn chunks_and_temperatures_out_of_bounds_are_refused_by_field() {
    let with = |change: &dyn Fn(&mut crate::Attention)| {
        let mut spec = meta().spec;
        change(spec.layers[0].attention_mut().unwrap());
        spec
    };
    let temperature = crate::Temperature { every: 4, strength: 0.1 };
    let chunked = with(&|a| (a.chunk, a.temperature, a.window) = (Some(4), Some(temperature), None));
    chunked.validate().unwrap();
    let json = serde_json::to_string(&chunked).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), chunked);
    for (field, spec) in [
        ("layers[0].chunk", with(&|a| (a.chunk, a.window) = (Some(0), None))),
        ("layers[0].attention", with(&|a| (a.chunk, a.window) = (Some(4), Some(4)))),
        (
            "layers[0].temperature.every",
            with(&|a| a.temperature = Some(crate::Temperature { every: 0, ..temperature })),
        ),
        (
            "layers[0].temperature.strength",
            with(&|a| a.temperature = Some(crate::Temperature { strength: f32::NAN, ..temperature })),
        ),
    ] {
        refuses_field(&spec, field);
    }
}
