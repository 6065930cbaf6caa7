//! Files that the writer makes.

use std::io::{self, Cursor, Seek, SeekFrom, Write};

use super::{meta, small, spec};
use crate::*;

#[test]
fn parses_what_it_wrote() {
    let bytes = small();
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
    assert_eq!(small(), small());
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

/// A file that an earlier build of this version wrote still reads, byte for byte the same.
#[test]
fn version_2_is_what_it_was() {
    let stored = include_bytes!("../../tests/v2.muse");
    assert_eq!(File::parse(stored).unwrap().spec, spec());
    assert!(small() == stored, "the writer's bytes changed: raise VERSION and keep the old file");
}

#[test]
fn a_file_of_version_1_is_refused_by_its_version() {
    let stored = include_bytes!("../../tests/v1.muse");
    assert_eq!(File::parse(stored).unwrap_err(), FormatError::Version(1));
}
