use std::io::Cursor;

use super::{meta, refuses_field, spec, write};
use crate::*;

/// [`spec`] with 4 experts beside the feed-forward.
pub(super) fn spec_with_experts() -> Spec {
    let mut spec = spec();
    spec.layers[0].experts = Some(Experts {
        score: Score::Sigmoid,
        choice_bias: true,
        normalise: true,
        scale: 2.5,
        ..Experts::new(4, 2, 12)
    });
    spec
}

#[test]
fn experts_are_read_in_the_order_of_their_use_and_routers_are_floats() {
    let meta = Meta { spec: spec_with_experts(), ..meta() };
    let bytes = write(&meta, Layout::Bf16);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    let names: Vec<_> = file.tensors().iter().map(|t| t.name).collect();
    let first = names.iter().position(|n| *n == "l0.experts.router").unwrap();
    let expected = ["router", "choice_bias", "0.gate", "0.up", "0.down", "1.gate"];
    assert_eq!(names[first..][..6], expected.map(|part| format!("l0.experts.{part}")));
    let down = file.tensor("l0.experts.3.down").unwrap();
    assert_eq!((down.rows, down.cols), (16, 12));
    let quantized = write(&meta, Layout::Q8 { group: 32 });
    let error = File::parse(&quantized).err().unwrap().to_string();
    assert!(error.contains("l0.experts.router") && error.contains("routers are f32, f16 or bf16"), "{error}");
}

#[test]
fn experts_out_of_bounds_are_refused_by_field() {
    type Change = fn(&mut Spec);
    spec_with_experts().validate().unwrap();
    let cases: [(&str, Change); 12] = [
        ("layers[0].experts.count", |s| s.layers[0].experts.as_mut().unwrap().count = 0),
        ("layers[0].experts.count", |s| s.layers[0].experts.as_mut().unwrap().count = 5000),
        ("layers[0].experts.used", |s| s.layers[0].experts.as_mut().unwrap().used = 0),
        ("layers[0].experts.used", |s| s.layers[0].experts.as_mut().unwrap().used = 5),
        ("layers[0].experts.dim", |s| s.layers[0].experts.as_mut().unwrap().dim = 0),
        ("layers[0].experts.scale", |s| s.layers[0].experts.as_mut().unwrap().scale = f32::NAN),
        ("layers[0].experts.latent", |s| s.layers[0].experts.as_mut().unwrap().latent = Some(0)),
        ("layers[0].experts.logit_scale", |s| s.layers[0].experts.as_mut().unwrap().logit_scale = -1.0),
        ("layers[0].experts.each_norm_eps", |s| {
            s.layers[0].experts.as_mut().unwrap().each_norm_eps = Some(f32::INFINITY);
        }),
        ("layers[0].experts.own_norms", |s| {
            s.layers[0].ffn = None;
            s.layers[0].experts.as_mut().unwrap().own_norms = true;
        }),
        ("layers[0].ffn", |s| (s.layers[0].ffn, s.layers[0].experts) = (None, None)),
        ("layers[].experts.count", |s| {
            s.layers[0].experts.as_mut().unwrap().count = 4096;
            s.layers = vec![s.layers[0].clone(); 100];
        }),
    ];
    for (field, change) in cases {
        let mut spec = spec_with_experts();
        change(&mut spec);
        refuses_field(&spec, field);
    }
}

/// A spec may claim a million tensors in a file that has ten: the first that lacks is the error, and soon.
#[test]
fn a_claim_of_many_experts_costs_nothing() {
    let mut meta = Meta { spec: spec_with_experts(), ..meta() };
    let bytes = write(&meta, Layout::F32);
    let layer = meta.spec.layers[0].clone();
    let experts = Experts { count: 4000, ..layer.experts.clone().unwrap() };
    meta.spec.layers = vec![Layer { ffn: None, experts: Some(experts), ..layer }; 80];
    meta.spec.validate().unwrap();
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    let small = File::parse(&bytes).unwrap();
    for t in small.tensors().iter().filter(|t| !t.name.contains("ffn.") || t.name.ends_with("norm")) {
        writer.begin(t.name, t.layout, t.rows, t.cols).unwrap();
        writer.write(t.bytes).unwrap();
        writer.end().unwrap();
    }
    let claimed = writer.finish(&meta).unwrap().into_inner();
    let error = File::parse(&claimed).err().unwrap();
    assert!(
        matches!(&error, FormatError::Shape { name, rows: 4000, .. } if name == "l0.experts.router"),
        "{error}"
    );
}
