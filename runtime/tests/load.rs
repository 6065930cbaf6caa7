//! Files that must not load, and what is said about them.

mod support;

use std::fs;
use std::path::Path;

use muse_format::{FormatError, Layout};
use muse_kernels::BackendError;
use muse_runtime::{BackendChoice, LoadError, LoadOptions, Mapped, Placement, TARGET, load_mapped, place};
use support::sweep::each_cpu_is_emulated;
use support::{byte_text, plain, write, write_for};

fn open(path: &Path) -> LoadError {
    Mapped::open(path).expect_err("the file is damaged")
}

fn format_error(path: &Path) -> FormatError {
    match open(path) {
        LoadError::Format { source, path: named } => {
            assert_eq!(named, path);
            source
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_written_is_mapped() {
    let spec = plain();
    let file = write(&spec, Layout::Q4 { group: 32 }, 3);
    let mapped = Mapped::open(&file.path).unwrap();
    assert_eq!(mapped.spec, spec);
    let embed = mapped.tensor("embed", 70, 40).unwrap();
    assert_eq!((embed.layout(), embed.rows(), embed.cols()), (Layout::Q4 { group: 32 }, 70, 40));
    let parsed = muse_format::File::parse(mapped.bytes()).unwrap();
    assert_eq!(embed.bytes(), parsed.tensor("embed").unwrap().bytes);
    parsed.verify(|_| ()).unwrap();
    for (name, rows, cols) in [("embed", 70, 41), ("embed", 69, 40), ("embed", 70, 1), ("nothing", 1, 1)] {
        let error = mapped.tensor(name, rows, cols).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    drop(mapped);
    assert_eq!(embed.bytes().len(), 5 * 2 * 288, "a tensor keeps its file mapped");
}

#[test]
fn paths_that_are_no_model() {
    let dir = tempfile::TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let missing = open(&at("missing.muse"));
    assert!(matches!(missing, LoadError::Open { .. }) && missing.to_string().contains("missing.muse"));
    assert!(matches!(open(dir.path()), LoadError::NotAFile { .. }));
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(open(&at("fifo")), LoadError::NotAFile { .. }), "a FIFO must not block");
    fs::write(at("empty"), b"").unwrap();
    assert_eq!(format_error(&at("empty")), FormatError::Magic);
    fs::write(at("text"), b"not a model at all").unwrap();
    assert_eq!(format_error(&at("text")), FormatError::Magic);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = write(&plain(), Layout::F16, 3);
    let whole = fs::read(&file.path).unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("cut.muse");
    for len in [1, 100, 255, 256, 4095, 4096, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = format_error(&path);
        let expected = matches!(error, FormatError::Magic | FormatError::Length { .. });
        assert!(expected, "{len} bytes: {error}");
    }
    fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
    assert!(matches!(format_error(&path), FormatError::Length { .. }));
}

#[test]
fn a_file_that_somebody_writes_is_refused() {
    let file = write(&plain(), Layout::F16, 3);
    let writer = fs::File::options().write(true).open(&file.path).unwrap();
    writer.lock().unwrap();
    assert!(matches!(open(&file.path), LoadError::Writing { .. }));
    writer.unlock().unwrap();
    let mapped = Mapped::open(&file.path).unwrap();
    let second = Mapped::open(&file.path).expect("readers share");
    assert!(writer.try_lock().is_err(), "a mapped file is locked");
    drop((mapped, second));
    writer.try_lock().expect("the lock goes with the last view");
}

#[test]
fn a_model_in_memory_has_the_bytes_of_its_file() {
    let file = write(&plain(), Layout::Q4 { group: 32 }, 3);
    let copied = Mapped::open(&file.path).unwrap().into_memory().unwrap();
    assert_eq!(copied.bytes(), fs::read(&file.path).unwrap());
    let embed = copied.tensor("embed", 70, 40).unwrap();
    let mapped = Mapped::open(&file.path).unwrap();
    assert_eq!(embed.bytes(), mapped.tensor("embed", 70, 40).unwrap().bytes());
    // A file that becomes shorter is an error here, where a mapping would end the process.
    fs::File::options().write(true).open(&file.path).unwrap().set_len(5000).unwrap();
    assert!(matches!(mapped.into_memory(), Err(LoadError::Open { .. })));
    assert_eq!(embed.bytes().len(), 5 * 2 * 288);
}

/// The kernel's reserve of huge pages, put back in the end.
struct NumberOfHugePages(String);

impl NumberOfHugePages {
    const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
}

impl Drop for NumberOfHugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, &self.0);
    }
}

#[test]
fn a_model_in_reserved_pages_is_whole_or_says_how_many_it_takes() {
    let file = write(&plain(), Layout::Q4 { group: 32 }, 3);
    let bytes = fs::read(&file.path).unwrap();
    assert!(bytes.len() < 2 << 20, "one page");
    let open = || Mapped::open(&file.path).unwrap();
    let Ok(before) = fs::read_to_string(NumberOfHugePages::FILE) else {
        return assert!(matches!(open().into_reserved(), Err(LoadError::Open { .. })), "there is no reserve");
    };
    let reserve = NumberOfHugePages(before);
    if reserve.0.trim() == "0" {
        let error = open().into_reserved().unwrap_err();
        assert!(matches!(error, LoadError::HugePages { wanted: 1, free: 0, needed: 1, .. }), "{error}");
        for part in ["1 huge pages", "0 are free", "vm.nr_hugepages=1", "copied"] {
            assert!(error.to_string().contains(part), "{part} is not in: {error}");
        }
    }
    // 3 more, of which one is taken below.
    let more = reserve.0.trim().parse::<u64>().unwrap() + 3;
    let _ = fs::write(NumberOfHugePages::FILE, more.to_string());
    if fs::read_to_string(NumberOfHugePages::FILE).unwrap().trim() != more.to_string() {
        eprintln!("not run: this machine does not let the test reserve huge pages");
        return;
    }
    // qemu's user mode refuses such mappings or not, by the address that it chose.
    let whole = |reserved: Result<Mapped, LoadError>| match reserved {
        Err(LoadError::Open { .. }) if each_cpu_is_emulated() => None,
        reserved => Some(reserved.unwrap()),
    };
    let options = LoadOptions { weights: Placement::Reserved, ..LoadOptions::default() };
    for reserved in [whole(open().into_reserved()), whole(place(open(), &options))].into_iter().flatten() {
        assert!(reserved.bytes() == bytes, "the copy differs");
        assert_eq!(reserved.huge_bytes(), Some(2 << 20), "what the kernel says it granted");
    }
}

#[test]
fn a_file_for_another_target_names_both_and_the_command() {
    let file = write_for(&plain(), Layout::F16, 3, "rknn-rk3588");
    let mapped = Mapped::open(&file.path).expect("inspect opens any target");
    let error = load_mapped(&mapped, &LoadOptions::default(), byte_text(70)).err().unwrap();
    assert!(matches!(error, LoadError::Target { .. }));
    let message = error.to_string();
    for part in ["rknn-rk3588", &format!("target {TARGET}"), "board test", "muse-quantize convert", "--board"]
    {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}

#[test]
fn a_loaded_model_tells_what_it_is() {
    let file = write(&plain(), Layout::Q8 { group: 32 }, 3);
    let mapped = Mapped::open(&file.path).unwrap();
    let options = LoadOptions {
        slots: 2,
        batch_tokens: 8,
        backend: BackendChoice::Reference,
        ..LoadOptions::default()
    };
    let engine = load_mapped(&mapped, &options, byte_text(70)).unwrap();
    let info = engine.info();
    assert_eq!((info.vocab, info.context, info.slots, info.batch_tokens), (70, 96, 2, 8));
    assert_eq!((info.hash, info.backend.as_str()), (mapped.hash, "reference"));
    assert_eq!((info.family.as_str(), info.generation.stop_ids.as_slice()), ("tiny", &[1][..]));
    let bytes: usize =
        muse_format::File::parse(mapped.bytes()).unwrap().tensors().iter().map(|t| t.bytes.len()).sum();
    assert_eq!(info.weight_bytes as usize, bytes);
}

#[test]
fn a_model_that_no_gpu_can_run_is_refused_unless_the_cpu_may_run_it() {
    let file = write(&plain(), Layout::Q4 { group: 32 }, 3);
    let mapped = Mapped::open(&file.path).unwrap();
    let load = |options: &LoadOptions| load_mapped(&mapped, options, byte_text(plain().vocab));
    let asked = LoadOptions { backend: BackendChoice::Cuda, threads: Some(1), ..LoadOptions::default() };
    // A machine with a driver may have a GPU.
    let Err(refused) = load(&asked) else { return };
    assert!(matches!(refused, LoadError::Backend(BackendError::Cuda(_))), "{refused}");
    let mut engine = load(&LoadOptions { cpu_fallback: true, ..asked }).unwrap();
    let mut cpu = load(&LoadOptions { threads: Some(1), ..LoadOptions::default() }).unwrap();
    assert_eq!(engine.info().backend, format!("{}, not on the GPU: {refused}", cpu.info().backend));
    assert_eq!(support::steps(&mut *engine, 0, &[1, 2, 3], 3), support::steps(&mut *cpu, 0, &[1, 2, 3], 3));
}
