//! What is written is read; every kind of damage is refused by name.

use std::io::{self, Cursor, Seek, SeekFrom, Write};

use proptest::prelude::{any, prop_assert, proptest};

use crate::file::{Entry, Header, root_hash};
use crate::*;

fn spec() -> Spec {
    let attention =
        Attention { scale: 0.35, rope: Some(0), qk_norm: true, qkv_bias: true, ..Attention::new(2, 1, 8) };
    let ffn = Ffn { dim: 20, activation: Activation::Silu, bias: false };
    Spec {
        family: "test".into(),
        dim: 16,
        vocab: 40,
        context: 64,
        norm_eps: 1e-6,
        tied_head: true,
        ropes: 1,
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }],
        ..Spec::default()
    }
}

fn meta() -> Meta {
    Meta {
        spec: spec(),
        text: Text {
            bos_id: Some(1),
            add_bos: true,
            template_tokens: [("eos_token".into(), "</s>".into())].into(),
            image: None,
            video: None,
            audio: None,
        },
        generation: Generation { stop_ids: vec![2], temperature: Some(0.5), ..Generation::default() },
        provenance: Provenance { tool: "test".into(), target: "cpu".into(), ..Provenance::default() },
        tokenizer: b"{}".to_vec(),
        chat_template: "{{ messages }}".into(),
    }
}

/// [`spec`] with 4 experts beside the feed-forward.
fn spec_with_experts() -> Spec {
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

/// A file of `meta`: vectors in f32, routers in `router`, matrices in Q4 of 32; the bytes are a counter.
fn write_meta(meta: &Meta, router: Layout) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    for e in meta.spec.tensors() {
        let layout = match e.role {
            Role::Vector => Layout::F32,
            Role::Router => router,
            Role::Matrix | Role::Table => Layout::Q4 { group: 32 },
        };
        let cols = if e.cols == 0 { 4 } else { e.cols };
        let len = layout.byte_len(e.rows, cols).unwrap();
        writer.begin(&e.name, layout, e.rows, cols).unwrap();
        writer.write(&(0..len).map(|i| i as u8 | 1).collect::<Vec<u8>>()).unwrap();
        writer.end().unwrap();
    }
    writer.finish(meta).unwrap().into_inner()
}

/// Vectors in f32, matrices in Q4 of 32; the bytes are a counter.
fn write(skip: Option<&str>, extra: Option<&str>) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    let extra = extra.map(|name| Expected { name: name.into(), rows: 1, cols: 3, role: Role::Vector });
    for e in spec().tensors().into_iter().filter(|e| Some(e.name.as_str()) != skip).chain(extra) {
        let layout = if e.role == Role::Vector { Layout::F32 } else { Layout::Q4 { group: 32 } };
        let cols = if e.cols == 0 { 4 } else { e.cols };
        let len = layout.byte_len(e.rows, cols).unwrap();
        writer.begin(&e.name, layout, e.rows, cols).unwrap();
        let bytes: Vec<u8> = (0..len).map(|i| i as u8 | 1).collect();
        bytes.chunks(100).for_each(|chunk| writer.write(chunk).unwrap());
        writer.end().unwrap();
    }
    writer.finish(&meta()).unwrap().into_inner()
}

/// Makes the metadata hash right again, so that a check behind it is reached.
fn reseal(bytes: &mut [u8]) {
    let tail = u64::from_le_bytes(bytes[56..64].try_into().unwrap()) as usize;
    if let (Some(page), Some(tail)) = (bytes.get(..4096), bytes.get(tail..)) {
        let hash = root_hash(page, tail);
        bytes[24..56].copy_from_slice(&hash);
    }
}

/// Where the tensor table starts.
fn table(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[64..72].try_into().unwrap()) as usize
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Rewrites a JSON section in place; the replacement has the same length.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("the text is in the file");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn parses_what_it_wrote() {
    let bytes = write(None, None);
    let file = File::parse(&bytes).unwrap();
    let meta = meta();
    assert_eq!((&file.spec, &file.text, &file.generation), (&meta.spec, &meta.text, &meta.generation));
    assert_eq!((&file.provenance, file.tokenizer), (&meta.provenance, b"{}".as_slice()));
    assert_eq!(file.chat_template, "{{ messages }}");
    let names: Vec<_> = file.tensors().iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(names, spec().tensors().into_iter().map(|e| e.name).collect::<Vec<_>>());
    let down = file.tensor("l0.ffn.down").unwrap();
    assert_eq!((down.rows, down.cols, down.layout), (16, 20, Layout::Q4 { group: 32 }));
    assert_eq!(down.bytes.len(), 288);
    assert_eq!(down.bytes[..3], [1, 1, 3]);
    let mut done = 0;
    file.verify(|n| done += n).unwrap();
    assert_eq!(done, file.tensors().iter().map(|t| t.bytes.len() as u64).sum::<u64>());
}

#[test]
fn equal_input_gives_equal_bytes() {
    assert_eq!(write(None, None), write(None, None));
}

#[test]
fn an_unfinished_file_does_not_parse() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(Cursor::new(&mut bytes)).unwrap();
    writer.begin("norm", Layout::F32, 1, 2 << 20).unwrap();
    writer.write(&vec![0; 8 << 20]).unwrap();
    drop(writer);
    assert_eq!(bytes.len(), 8 << 20, "whole chunks went out");
    assert_eq!(File::parse(&bytes).err(), Some(FormatError::Magic));
}

/// Keeps where each write began.
#[derive(Default)]
struct Sink {
    file: Cursor<Vec<u8>>,
    writes: Vec<(u64, usize)>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.push((self.file.position(), bytes.len()));
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Sink {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[test]
fn bytes_reach_the_sink_in_aligned_chunks() {
    let mut writer = Writer::new(Sink::default()).unwrap();
    let bytes: Vec<u8> = (0..9 << 20).map(|i: u32| (i % 251) as u8).collect();
    for name in ["a", "b"] {
        writer.begin(name, Layout::F32, 1, 9 << 18).unwrap();
        bytes.chunks(1_000_003).for_each(|chunk| writer.write(chunk).unwrap());
        writer.end().unwrap();
    }
    let sink = writer.finish(&meta()).unwrap();
    let (header, data) = sink.writes.split_last().unwrap();
    let (last, whole) = data.split_last().unwrap();
    assert_eq!(whole, (0..4).map(|i| (i << 22, 1 << 22)).collect::<Vec<_>>());
    assert!(last.0 == 4 << 22 && last.1 < 4 << 20 && header.0 == 0);
    let file = sink.file.into_inner();
    assert_eq!(file[4096..][..bytes.len()], bytes);
    assert_eq!(file[4096 + bytes.len()..][..bytes.len()], bytes);
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let begin = |name: &str| Writer::new(Cursor::new(Vec::new())).unwrap().begin(name, Layout::F32, 1, 2);
    for name in ["", "has space", "ünï", &"n".repeat(64)] {
        assert!(matches!(begin(name), Err(WriteError::Name(_))), "{name:?}");
    }
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    writer.begin("a", Layout::F32, 1, 2).unwrap();
    writer.write(&[0; 7]).unwrap();
    assert!(matches!(writer.end(), Err(WriteError::Short { written: 7, expected: 8, .. })));
    assert!(matches!(
        writer.begin("a", Layout::F32, 1, 2),
        Err(WriteError::Format(FormatError::Duplicate(_)))
    ));
}

#[test]
fn rejects_each_kind_of_damage() {
    const ENTRY: usize = size_of::<Entry>();
    type Damage = fn(&mut Vec<u8>);
    #[rustfmt::skip]
    let cases: &[(&str, bool, Damage, &str)] = &[
        ("empty", false, |b| b.clear(), "not a .muse file"),
        ("shorter than a header", false, |b| b.truncate(255), "not a .muse file"),
        ("another format", false, |b| b[..4].copy_from_slice(b"GGUF"), "not a .muse file"),
        ("text-mode copy", false, |b| b[5] = b'\n', "not a .muse file"),
        ("a future version", false, |b| b[8] = 3, "version 3 is not supported"),
        ("header only", false, |b| b.truncate(256), "its header says"),
        ("last byte gone", false, |b| { b.pop(); }, "its header says"),
        ("one byte more", false, |b| b.push(0), "its header says"),
        ("a flipped bit in the header", false, |b| b[70] ^= 1, "does not match its BLAKE3"),
        ("a flipped bit in the table", false, |b| { let t = table(b); b[t + 90] ^= 4; }, "does not match its BLAKE3"),
        ("a flipped bit in the last byte", false, |b| *b.last_mut().unwrap() ^= 1, "does not match its BLAKE3"),
        ("tail past the end", false, |b| put(b, 56, u64::MAX), "the tail at offset"),
        ("tail in the header", false, |b| put(b, 56, 8), "the tail at offset 8"),
        ("reserved flags", true, |b| b[12] = 1, "reserved bytes at offset 12"),
        ("reserved header bytes", true, |b| b[200] = 1, "reserved bytes at offset 200"),
        ("reserved page bytes", true, |b| b[4000] = 1, "reserved bytes at offset 4000"),
        ("table past the end", true, |b| put(b, 64, u64::MAX - 3), "tensor table at offset"),
        ("table of half an entry", true, |b| put(b, 72, 80), "not a whole number of entries"),
        ("huge table", true, |b| put(b, 72, 1 << 40), "at most 167772160 are allowed"),
        ("table among the tensors", true, |b| put(b, 64, 4096), "tensor table at offset 4096"),
        ("huge section", true, |b| put(b, 88, 1 << 40), "spec is 1099511627776 bytes"),
        ("section past the end", true, |b| { let n = b.len() as u64; put(b, 160, n - 1); }, "chat template at offset"),
        ("sections overlap", true, |b| { let spec = u64::from_le_bytes(b[80..88].try_into().unwrap()); put(b, 144, spec); }, "overlap"),
        ("section on the table", true, |b| { let t = table(b) as u64; put(b, 144, t); }, "overlap"),
        ("template not UTF-8", true, |b| { let at = u64::from_le_bytes(b[160..168].try_into().unwrap()); b[at as usize] = 0xff; }, "chat template is not valid"),
        ("spec not JSON", true, |b| replace(b, "{\"family\"", "[\"family\""), "spec is not valid"),
        ("unknown spec key", true, |b| replace(b, "\"norm_eps\"", "\"norm_epz\""), "spec is not valid"),
        ("unknown text key", true, |b| replace(b, "\"add_bos\"", "\"add_boz\""), "text is not valid"),
        ("spec out of bounds", true, |b| replace(b, "\"vocab\":40", "\"vocab\":00"), "spec is not valid"),
        ("zero vocab", true, |b| replace(b, "\"vocab\":40", "\"vocab\": 0"), "vocab is 0"),
        ("heads not a multiple", true, |b| replace(b, "\"kv_heads\":1", "\"kv_heads\":3"), "multiple of kv_heads"),
        ("rope out of range", true, |b| replace(b, "\"rope\":0", "\"rope\":9"), "rotation table"),
        ("negative epsilon", true, |b| replace(b, "\"embed_scale\":1.0", "\"embed_scale\":-1."), "spec is not valid"),
        ("zero scale", true, |b| replace(b, "\"embed_scale\":1.0", "\"embed_scale\":0.0"), "embed_scale is 0"),
        ("shape not the spec's", true, |b| replace(b, "\"dim\":20", "\"dim\":24"), "the spec asks for 24 x 16"),
        ("name without end", true, |b| { let t = table(b); b[t..t + 64].fill(b'x'); }, "its name has no end"),
        ("empty name", true, |b| { let t = table(b); b[t] = 0; }, "its name is not ASCII"),
        ("name with a control byte", true, |b| { let t = table(b); b[t] = 7; }, "its name is not ASCII"),
        ("bytes after the name", true, |b| { let t = table(b); b[t + 63] = 1; b[t + 62] = 0; }, "reserved bytes are not zero"),
        ("reserved entry bytes", true, |b| { let t = table(b); b[t + 159] = 1; }, "reserved bytes are not zero"),
        ("unknown layout", true, |b| { let t = table(b); b[t + 64] = 99; }, "unknown layout 99"),
        ("unknown group", true, |b| { let t = table(b); b[t + 66] = 33; }, "unknown layout 5 with group 33"),
        ("no rows", true, |b| { let t = table(b); put(b, t + 72, 0); }, "is empty: 0 x 16"),
        ("rows overflow", true, |b| { let t = table(b); put(b, t + 72, u64::MAX); }, "18446744073709551615 x 16"),
        ("length not the shape's", true, |b| { let t = table(b); put(b, t + 96, 287); }, "takes 864"),
        ("offset not aligned", true, |b| { let t = table(b); put(b, t + 88, 4097); }, "not a multiple of 4096"),
        ("offset in the header", true, |b| { let t = table(b); put(b, t + 88, 0); }, "embed at offset 0"),
        ("offset past the data", true, |b| { let t = table(b); put(b, t + 88, 1 << 60); }, "embed at offset"),
        ("tensors overlap", true, |b| { let t = table(b); put(b, t + ENTRY + 88, 4096); }, "overlap"),
        ("tensor named twice", true, |b| { let t = table(b); let (a, z) = b.split_at_mut(t + ENTRY); z[..64].copy_from_slice(&a[t..t + 64]); }, "named twice"),
        ("vector not f32", true, |b| { let t = table(b) + ENTRY; b[t + 64] = 2; put(b, t + 96, 8); }, "vectors are f32"),
    ];
    let good = write(None, None);
    let mut failures = Vec::new();
    for (name, resealed, damage, expected) in cases {
        let mut bytes = good.clone();
        damage(&mut bytes);
        if *resealed {
            reseal(&mut bytes);
        }
        match File::parse(&bytes).err().map(|e| e.to_string()) {
            Some(message) if message.contains(expected) => {}
            other => failures.push(format!("{name}: expected {expected:?}, got {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn experts_are_read_in_the_order_of_their_use_and_routers_are_floats() {
    let meta = Meta { spec: spec_with_experts(), ..meta() };
    let bytes = write_meta(&meta, Layout::Bf16);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    let names: Vec<_> = file.tensors().iter().map(|t| t.name).collect();
    let first = names.iter().position(|n| *n == "l0.experts.router").unwrap();
    let expected = ["router", "choice_bias", "0.gate", "0.up", "0.down", "1.gate"];
    assert_eq!(names[first..][..6], expected.map(|part| format!("l0.experts.{part}")));
    let down = file.tensor("l0.experts.3.down").unwrap();
    assert_eq!((down.rows, down.cols), (16, 12));
    let quantized = write_meta(&meta, Layout::Q8 { group: 32 });
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
        let error = spec.validate().unwrap_err();
        assert!(
            matches!(&error, FormatError::Spec { field: named, .. } if named == field),
            "{field}: {error}"
        );
    }
}

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
    let bytes = write_meta(&meta, Layout::F32);
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
        let error = spec.validate().unwrap_err();
        assert!(
            matches!(&error, FormatError::Spec { field: named, .. } if named == field),
            "{field}: {error}"
        );
    }
}

/// The small spec with a tower.
fn spec_with_vision() -> Spec {
    let vision = Vision {
        token: 3,
        blank_tokens: vec![3, 4],
        pixels: Pixels { patch: 2, frames: 2, tokens_max: 8, ..Pixels::default() },
        dim: 8,
        heads: 2,
        ffn_dim: 12,
        positions: 3,
        frequencies: 1,
        merge: 2,
        adapter_dim: 6,
        layers: vec![VisionLayer { window: Some(3) }, VisionLayer { window: None }],
        video: Some(Video {
            token: 4,
            rate: 2.0,
            frames_min: 2,
            frames_max: 6,
            taken: Taken::Before,
            fit: Fit::Area { pixels_min: 4, pixels_max: 64 },
            tokens_max: 8,
        }),
        ..Vision::default()
    };
    Spec { vision: Some(vision), ..spec() }
}

#[test]
fn a_tower_has_its_tensors_behind_the_decoder() {
    let meta = Meta { spec: spec_with_vision(), ..meta() };
    let bytes = write_meta(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    let shape = |name: &str| file.tensor(name).map(|t| (t.rows, t.cols, t.layout));
    assert_eq!(shape("vision.patch").map(|(rows, cols, _)| (rows, cols)), Some((8, 24)));
    assert_eq!(shape("vision.positions"), Some((9, 8, Layout::F32)));
    assert_eq!(shape("vision.l1.ffn.down_bias"), Some((1, 8, Layout::F32)));
    assert_eq!(shape("vision.adapter.up").map(|(rows, cols, _)| (rows, cols)), Some((6, 32)));
    assert_eq!(shape("vision.l2.attn.q"), None);
    let last = file.tensors().last().unwrap();
    assert_eq!((last.name, last.cols), ("vision.norm", u64::from(meta.spec.dim)));
}

#[test]
fn a_tower_is_checked_by_the_name_of_its_field() {
    spec_with_vision().validate().unwrap();
    type Change = fn(&mut Vision);
    fn video(v: &mut Vision) -> &mut Video {
        v.video.as_mut().unwrap()
    }
    let cases: [(&str, Change); 37] = [
        ("vision.token", |v| v.blank = u32::MAX),
        ("vision.scale", |v| v.scale = Some(0.0)),
        ("vision.adapter_dim", |v| v.join = Join::Mean { standardized: false, rooted: true }),
        ("vision.pixels.frames", |v| v.pixels.given = Given::Padded),
        ("vision.pixels.frames", |v| v.pixels.given = Given::Planes),
        ("vision.class", |v| v.class = true),
        ("vision.positions", |v| v.pixels.tiles = Some(4)),
        ("vision.pixels.tiles", |v| (v.positions, v.pixels.tiles) = (4, Some(0))),
        ("vision.pixels.tiles", |v| {
            (v.positions, v.pixels.patch, v.pixels.tiles) = (4, 256, Some(64));
        }),
        ("vision.positions", |v| v.pixels.fit = Fit::Table),
        ("vision.pixels.fit", |v| (v.positions, v.pixels.patch, v.pixels.fit) = (4096, 256, Fit::Table)),
        ("vision.joint_everywhere", |v| v.joint_everywhere = true),
        ("vision.token", |v| v.token = u32::MAX),
        ("vision.token", |v| v.blank_tokens.push(u32::MAX)),
        ("vision.blank_tokens", |v| v.blank_tokens = vec![0; 17]),
        ("vision.pixels.patch", |v| v.pixels.patch = 0),
        ("vision.pixels.tokens_max", |v| v.pixels.tokens_max = u32::MAX),
        ("vision.pixels.mean", |v| v.pixels.mean[1] = f32::NAN),
        ("vision.pixels.deviation", |v| v.pixels.deviation[2] = 0.0),
        ("vision.heads", |v| v.heads = 0),
        ("vision.dim", |v| v.dim = 9),
        ("vision.frequencies", |v| v.frequencies = 2),
        ("vision.frequencies", |v| v.frequencies = 1 << 30),
        ("vision.merge", |v| v.merge = 17),
        ("vision.norm_eps", |v| v.norm_eps = -1.0),
        ("vision.outer_norm_eps", |v| v.outer_norm_eps = f32::INFINITY),
        ("vision.layers", |v| v.layers.clear()),
        ("vision.layers[].window", |v| v.layers[1].window = Some(4)),
        ("vision.layers[0].window", |v| v.layers[0].window = Some(0)),
        ("vision.video.token", |v| video(v).token = u32::MAX),
        ("vision.video.rate", |v| video(v).rate = 0.0),
        ("vision.video.rate", |v| video(v).rate = f64::NAN),
        ("vision.video.frames_max", |v| video(v).frames_max = 1 << 17),
        ("vision.video.frames_min", |v| video(v).frames_min = 7),
        ("vision.video.tokens_max", |v| video(v).tokens_max = 0),
        ("vision.video.fit.pixels_max", |v| video(v).fit = Fit::Area { pixels_min: 1, pixels_max: 1 << 31 }),
        ("vision.video.fit.pixels_min", |v| video(v).fit = Fit::Area { pixels_min: 9, pixels_max: 8 }),
    ];
    for (field, change) in cases {
        let mut spec = spec_with_vision();
        change(spec.vision.as_mut().unwrap());
        let error = spec.validate().unwrap_err();
        assert!(
            matches!(&error, FormatError::Spec { field: named, .. } if named == field),
            "{field}: {error}"
        );
    }
}

#[test]
fn a_tower_of_other_blocks_has_other_tensors() {
    let mut spec = spec_with_vision();
    let vision = spec.vision.as_mut().unwrap();
    (vision.rms, vision.post_norms, vision.head_norms, vision.gated) = (true, true, true, true);
    (vision.bias, vision.clipped, vision.post_norm) = (false, true, false);
    (vision.laid, vision.join) = (Laid::Axes, Join::Mean { standardized: true, rooted: true });
    (vision.adapter_dim, vision.adapter_down) = (8, false);
    spec.validate().unwrap();
    let tensors: Vec<_> = spec.tensors().into_iter().map(|t| (t.name, t.rows, t.cols)).collect();
    let shape = |name: &str| tensors.iter().find(|(own, ..)| own == name).map(|(_, r, c)| (*r, *c));
    assert_eq!(shape("vision.positions"), Some((6, 8)));
    for (name, expected) in [
        ("vision.l0.attn.norm", (1, 8)),
        ("vision.l0.attn.post_norm", (1, 8)),
        ("vision.l1.attn.k_norm", (1, 4)),
        ("vision.l1.ffn.gate", (12, 8)),
        ("vision.l1.ffn.post_norm", (1, 8)),
        ("vision.l1.ffn.down_out_max", (1, 1)),
        ("vision.mean_shift", (1, 8)),
        ("vision.mean_norm", (1, 8)),
    ] {
        assert_eq!(shape(name), Some(expected), "{name}");
    }
    for name in ["vision.l0.attn.norm_bias", "vision.l0.attn.q_bias", "vision.post_norm", "vision.adapter.up"]
    {
        assert_eq!(shape(name), None, "{name}");
    }
}

/// The small spec with a tower over sounds: 6 samples a vector.
fn spec_with_audio() -> Spec {
    let stages = vec![
        AudioStage { patch: 3, dim: 4, ffn_dim: 6, blocks: 2 },
        AudioStage { patch: 2, dim: 10, ffn_dim: 12, blocks: 1 },
    ];
    let audio = Audio {
        token: 3,
        blank_tokens: vec![3, 4],
        rate: 100,
        taps: 5,
        activation: Activation::Gelu,
        norm_eps: 1e-6,
        vector_norm: true,
        stages,
    };
    Spec { audio: Some(audio), ..spec_with_vision() }
}

#[test]
fn a_tower_over_sounds_has_its_tensors_at_the_end() {
    let meta = Meta { spec: spec_with_audio(), ..meta() };
    let bytes = write_meta(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    let shape = |name: &str| file.tensor(name).map(|t| (t.rows, t.cols));
    assert_eq!(shape("audio.s0.patch"), Some((4, 3)));
    assert_eq!(shape("audio.s1.patch"), Some((10, 8)));
    assert_eq!(shape("audio.s0.b1.conv"), Some((5, 4)));
    assert_eq!(shape("audio.s1.b0.down_bias"), Some((1, 10)));
    assert_eq!(shape("audio.s1.b1.up"), None);
    let last = file.tensors().last().unwrap();
    assert_eq!((last.name, last.cols), ("audio.vector_norm", u64::from(meta.spec.dim)));
    let audio = meta.spec.audio.as_ref().unwrap();
    assert_eq!((audio.samples(), audio.rows(0), audio.rows(1)), (6, 2, 1));
    assert_eq!([0, 1, 6, 7, u64::MAX].map(|samples| audio.tokens(samples)), [0, 1, 1, 2, u64::MAX / 6 + 1]);
    assert_eq!([4, 5].map(|token| meta.spec.embedded_as(token)), [0, 5]);
}

#[test]
fn a_tower_over_sounds_is_checked_by_the_name_of_its_field() {
    spec_with_audio().validate().unwrap();
    type Change = fn(&mut Audio);
    let cases: [(&str, Change); 14] = [
        ("audio.token", |a| a.token = u32::MAX),
        ("audio.token", |a| a.blank_tokens.push(u32::MAX)),
        ("audio.blank_tokens", |a| a.blank_tokens = vec![0; 17]),
        ("audio.rate", |a| a.rate = 0),
        ("audio.taps", |a| a.taps = 0),
        ("audio.taps", |a| a.taps = 65),
        ("audio.norm_eps", |a| a.norm_eps = f32::NAN),
        ("audio.stages", |a| a.stages.clear()),
        ("audio.stages", |a| a.stages = vec![a.stages[0].clone(); 65]),
        ("audio.stages[0].patch", |a| a.stages[0].patch = 0),
        ("audio.stages[1].dim", |a| a.stages[1].dim = u32::MAX),
        ("audio.stages[1].ffn_dim", |a| a.stages[1].ffn_dim = 0),
        ("audio.stages[0].blocks", |a| a.stages[0].blocks = 65),
        ("audio.stages[1].patch", |a| a.stages[1].patch = 1 << 20),
    ];
    for (field, change) in cases {
        let mut spec = spec_with_audio();
        change(spec.audio.as_mut().unwrap());
        let error = spec.validate().unwrap_err();
        assert!(
            matches!(&error, FormatError::Spec { field: named, .. } if named == field),
            "{field}: {error}"
        );
    }
}

/// An encoder that embeds texts.
fn spec_of_encoder() -> Spec {
    let attention =
        Attention { qkv_bias: true, out_bias: true, bidirectional: true, ..Attention::new(2, 2, 8) };
    let ffn = Ffn { dim: 20, activation: Activation::Gelu, bias: true };
    Spec {
        ropes: 0,
        embedding: Some(Embedding {
            pooling: Pooling::First,
            dense: vec![
                Dense { dim: 24, bias: true, tanh: true },
                Dense { dim: 12, bias: false, tanh: false },
            ],
            normalise: true,
            prompts: [("query".into(), "find: ".into())].into(),
            default_prompt: Some("query".into()),
        }),
        encoder: Some(Encoder { positions: 64, types: 2 }),
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }; 2],
        ..spec()
    }
}

#[test]
fn an_encoder_has_tables_norms_with_biases_and_products_after_pooling() {
    let meta = Meta { spec: spec_of_encoder(), ..meta() };
    let bytes = write_meta(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    assert_eq!(file.spec.embedding.as_ref().unwrap().width(16), 12);
    for (name, shape) in [
        ("positions", Some((64, 16))),
        ("types", Some((2, 16))),
        ("embed_norm_bias", Some((1, 16))),
        ("l1.attn.q_bias", Some((1, 16))),
        ("l1.attn.norm_bias", Some((1, 16))),
        ("l1.ffn.up", Some((20, 16))),
        ("l1.ffn.up_bias", Some((1, 20))),
        ("l1.ffn.down", Some((16, 20))),
        ("l1.ffn.gate", None),
        ("norm", None),
        ("head", None),
        ("dense.0", Some((24, 16))),
        ("dense.0_bias", Some((1, 24))),
        ("dense.1", Some((12, 24))),
        ("dense.1_bias", None),
    ] {
        assert_eq!(file.tensor(name).map(|t| (t.rows, t.cols)), shape, "{name}");
    }
}

#[test]
fn a_model_that_embeds_is_whole_or_refused() {
    type Change = fn(&mut Spec);
    let cases: [(&str, Change); 12] = [
        ("an encoder embeds texts", |s| {
            s.embedding = None;
            s.layers.iter_mut().for_each(|l| l.attention_mut().unwrap().bidirectional = false);
        }),
        ("only a model that embeds texts and a drafter may see what follows", |s| {
            (s.encoder, s.embedding) = (None, None)
        }),
        ("an encoder has a row for every position", |s| s.context = 65),
        ("it must be at least 1", |s| s.encoder.as_mut().unwrap().types = 0),
        ("an encoder has no rotation", |s| s.embed_norm = true),
        ("an encoder's layers have", |s| s.layers[1].attention_mut().unwrap().qk_norm = true),
        ("an encoder's layers have", |s| s.layers[1].ffn.as_mut().unwrap().bias = false),
        ("an encoder's layers have", |s| s.layers[1].post_norms = true),
        ("of one shape", |s| s.layers[1].mixer = Mixer::Attention(Attention::new(1, 1, 16))),
        ("has no head", |s| s.tied_head = false),
        ("it must name one of the prompts", |s| {
            s.embedding.as_mut().unwrap().default_prompt = Some("passage".into());
        }),
        ("it must be at least 1", |s| s.embedding.as_mut().unwrap().dense[1].dim = 0),
    ];
    spec_of_encoder().validate().unwrap();
    for (expected, change) in cases {
        let mut spec = spec_of_encoder();
        change(&mut spec);
        let error = spec.validate().expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// A drafter of two layers that reads three of its target's.
fn spec_of_drafter() -> Spec {
    let attention = Attention {
        bidirectional: true,
        window: Some(5),
        rope: Some(0),
        qk_norm: true,
        ..Attention::new(2, 1, 8)
    };
    let ffn = Ffn { dim: 20, activation: Activation::Silu, bias: false };
    Spec {
        drafter: Some(Drafter::Block(BlockDrafter { reads: vec![2, 0, 3], block: 6, mask: 39 })),
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }; 2],
        ..spec()
    }
}

#[test]
fn a_drafter_has_layers_alone_and_what_reads_its_target() {
    let meta = Meta { spec: spec_of_drafter(), ..meta() };
    let bytes = write_meta(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    for (name, shape) in [
        ("drafter.into", Some((16, 48))),
        ("drafter.norm", Some((1, 16))),
        ("l1.attn.q_norm", Some((1, 8))),
        ("norm", Some((1, 16))),
        ("embed", None),
        ("head", None),
    ] {
        assert_eq!(file.tensor(name).map(|t| (t.rows, t.cols)), shape, "{name}");
    }
}

#[test]
fn a_drafter_is_whole_or_refused() {
    type Change = fn(&mut Spec);
    fn drafter(spec: &mut Spec) -> &mut BlockDrafter {
        match &mut spec.drafter {
            Some(Drafter::Block(block)) => block,
            other => panic!("{other:?}"),
        }
    }
    let cases: [(&str, Change); 17] = [
        ("it reads 1 to 64 layers", |s| drafter(s).reads.clear()),
        ("it reads 1 to 64 layers", |s| drafter(s).reads = vec![0; 65]),
        ("layers times dim", |s| (s.dim, drafter(s).reads) = (1 << 20, vec![0; 2])),
        ("it must be at least 1", |s| drafter(s).block = 0),
        ("it must be at least 1", |s| drafter(s).block = 65),
        ("at least one mask", |s| drafter(s).block = 1),
        ("it must be a token", |s| drafter(s).mask = 40),
        ("layers are of attention to both sides", |s| {
            s.layers[1].attention_mut().unwrap().bidirectional = false;
        }),
        ("layers are of attention to both sides", |s| s.layers[1].post_norms = true),
        ("layers are of attention to both sides", |s| s.layers[1].scaled = true),
        ("layers are of attention to both sides", |s| s.layers[1].token_gate = true),
        ("layers are of attention to both sides", |s| {
            s.layers[1].experts = spec_with_experts().layers[0].experts.clone()
        }),
        ("layers are of attention to both sides", |s| {
            s.layers[1].attention_mut().unwrap().temperature = Some(Temperature { every: 4, strength: 0.1 });
        }),
        ("layers are of attention to both sides", |s| s.layers[1].attention_mut().unwrap().kv_from = Some(0)),
        ("a drafter has layers alone", |s| s.tied_head = false),
        ("a drafter has layers alone", |s| s.vision = spec_with_vision().vision),
        ("a drafter has layers alone", |s| s.embedding = spec_of_encoder().embedding),
    ];
    spec_of_drafter().validate().unwrap();
    for (expected, change) in cases {
        let mut spec = spec_of_drafter();
        change(&mut spec);
        let error = spec.validate().expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// A drafter of one token after another.
fn spec_of_chain() -> Spec {
    let attention = Attention { out_gate: true, rope: Some(0), qk_norm: true, ..Attention::new(2, 1, 8) };
    let ffn = Ffn { dim: 20, activation: Activation::Silu, bias: false };
    Spec {
        drafter: Some(Drafter::Chain(ChainDrafter { chain: 3 })),
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }],
        ..spec()
    }
}

#[test]
fn a_chain_has_a_layer_and_what_reads_a_token_and_its_target() {
    let meta = Meta { spec: spec_of_chain(), ..meta() };
    let bytes = write_meta(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    for (name, shape) in [
        ("drafter.into", Some((16, 32))),
        ("drafter.norm", Some((1, 16))),
        ("drafter.embed_norm", Some((1, 16))),
        ("l0.attn.gate", Some((16, 16))),
        ("norm", Some((1, 16))),
        ("embed", None),
        ("head", None),
    ] {
        assert_eq!(file.tensor(name).map(|t| (t.rows, t.cols)), shape, "{name}");
    }
    let json = |text: &str| serde_json::from_str::<Drafter>(text).ok();
    assert_eq!(json(r#"{"chain":3}"#), meta.spec.drafter);
    assert_eq!(json(r#"{"reads":[2,0,3],"block":6,"mask":39}"#), spec_of_drafter().drafter);
    for other in [r#"{"chain":3,"mask":1}"#, r#"{"chain":-1}"#, r#"{"reads":[1],"block":6}"#, "{}"] {
        assert_eq!(json(other), None, "{other}");
    }
}

#[test]
fn a_chain_is_whole_or_refused() {
    type Change = fn(&mut Spec);
    fn attention(spec: &mut Spec) -> &mut Attention {
        spec.layers[0].attention_mut().unwrap()
    }
    let cases: [(&str, Change); 14] = [
        ("it must be at least 1", |s| s.drafter = Some(Drafter::Chain(ChainDrafter { chain: 0 }))),
        ("it must be at least 1", |s| s.drafter = Some(Drafter::Chain(ChainDrafter { chain: 17 }))),
        ("dim must be 524288 at most", |s| s.dim = (1 << 19) + 2),
        ("one layer each", |s| s.layers = vec![s.layers[0].clone(); 2]),
        ("attention to all that lies before", |s| attention(s).window = Some(5)),
        ("attention to all that lies before", |s| attention(s).chunk = Some(5)),
        ("attention to all that lies before", |s| attention(s).bidirectional = true),
        ("attention to all that lies before", |s| {
            attention(s).temperature = Some(Temperature { every: 4, strength: 0.1 });
        }),
        ("attention to all that lies before", |s| s.layers[0].post_norms = true),
        ("attention to all that lies before", |s| s.layers[0].residual_gates = true),
        ("attention to all that lies before", |s| {
            let choosing = Indexer { heads: 1, head_dim: 4, top: 2, norm_eps: 1e-6 };
            s.layers[0].mixer = Mixer::Latent(LatentAttention {
                heads: 2,
                query_rank: Some(4),
                rank: 8,
                key_dim: 4,
                rope_dim: 2,
                value_dim: 4,
                scale: 0.5,
                rope: 0,
                norm_eps: 1e-6,
                bias: false,
                sparse: Some(Sparse::Own(choosing)),
            });
        }),
        ("a drafter has layers alone", |s| s.tied_head = false),
        ("a drafter has layers alone", |s| s.embed_norm = true),
        ("a drafter has layers alone", |s| s.vision = spec_with_vision().vision),
    ];
    spec_of_chain().validate().unwrap();
    for (expected, change) in cases {
        let mut spec = spec_of_chain();
        change(&mut spec);
        let error = spec.validate().expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// A spec may claim a million tensors in a file that has ten: the first that lacks is the error, and soon.
#[test]
fn a_claim_of_many_experts_costs_nothing() {
    let mut meta = Meta { spec: spec_with_experts(), ..meta() };
    let bytes = write_meta(&meta, Layout::F32);
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

#[test]
fn missing_and_surplus_tensors_are_named() {
    let missing = write(Some("l0.attn.k"), None);
    assert_eq!(File::parse(&missing).err(), Some(FormatError::Missing("l0.attn.k".into())));
    let surplus = write(None, Some("l1.attn.norm"));
    assert_eq!(File::parse(&surplus).err(), Some(FormatError::Unused("l1.attn.norm".into())));
}

#[test]
fn verify_finds_any_flipped_data_bit_and_dirty_padding() {
    let good = write(None, None);
    let offsets: Vec<_> = {
        let file = File::parse(&good).unwrap();
        file.tensors().iter().map(|t| (t.name.to_owned(), t.offset as usize, t.bytes.len())).collect()
    };
    for (name, offset, len) in offsets {
        for at in [offset, offset + len / 2, offset + len - 1] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            let error = File::parse(&bytes).unwrap().verify(|_| ()).unwrap_err();
            assert_eq!(error, FormatError::Hash(format!("tensor {name}")));
        }
        if !(offset + len).is_multiple_of(4096) {
            let mut bytes = good.clone();
            bytes[offset + len] = 1;
            let error = File::parse(&bytes).unwrap().verify(|_| ()).unwrap_err();
            assert_eq!(error, FormatError::Reserved((offset + len) as u64));
        }
    }
}

#[test]
fn no_flipped_metadata_byte_is_accepted() {
    let good = write(None, None);
    let tail = table(&good);
    for at in (0..size_of::<Header>()).chain(tail..good.len()) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        assert!(File::parse(&bytes).is_err(), "byte {at}");
    }
}

proptest! {
    /// Damage behind a right hash: an error or a file whose every view is inside its bytes, never a panic.
    #[test]
    fn resealed_damage_never_panics(at in any::<proptest::sample::Index>(), value in any::<u8>(), word in any::<u64>(), wide in any::<bool>()) {
        let mut bytes = write(None, None);
        let tail = table(&bytes);
        let places: Vec<usize> = (8..256).chain(tail..bytes.len()).collect();
        let place = places[at.index(places.len())];
        if wide && place + 8 <= bytes.len() {
            put(&mut bytes, place, word);
        } else {
            bytes[place] = value;
        }
        reseal(&mut bytes);
        if let Ok(file) = File::parse(&bytes) {
            for t in file.tensors() {
                prop_assert!(t.offset as usize + t.bytes.len() <= bytes.len());
            }
        }
    }
}

/// A file that an earlier build of this version wrote still reads, byte for byte the same.
#[test]
fn version_2_is_what_it_was() {
    let stored = include_bytes!("../tests/v2.muse");
    assert_eq!(File::parse(stored).unwrap().spec, spec());
    assert!(write(None, None) == stored, "the writer's bytes changed: raise VERSION and keep the old file");
}

#[test]
fn a_file_of_version_1_is_refused_by_its_version() {
    let stored = include_bytes!("../tests/v1.muse");
    assert_eq!(File::parse(stored).unwrap_err(), FormatError::Version(1));
}
