//! `musectl doctor`: what this machine has, what is missing, and what to do about it.

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

use muse_runtime::BackendChoice;
use muse_runtime::selftest::Tried;
use serde::Serialize;
use zbus::fdo;

use super::{Error, client, human_bytes, jetson};
use crate::config::Config;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    /// Worth knowing; nothing is broken.
    Note,
    /// Has to be put right before models answer.
    Fail,
}

#[derive(Debug, Serialize)]
pub(super) struct Check {
    name: &'static str,
    pub(super) state: State,
    pub(super) found: String,
    /// What to do; empty where nothing is to be done.
    pub(super) remedy: String,
}

impl Check {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), remedy: String::new() }
    }

    pub(super) fn note(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Note, found: found.into(), remedy: remedy.into() }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Fail, found: found.into(), remedy: remedy.into() }
    }
}

pub async fn run(session: bool, json: bool, config: Option<&Path>, kernels: bool) -> Result<(), Error> {
    let root = Path::new("/");
    let mut checks = vec![board(root), cpu(root), threads(root), memory(root)];
    checks.extend(jetson::checks(root));
    let (configuration, backend) = configuration(root, config, session);
    checks.extend(configuration);
    if kernels {
        checks.push(selftest(backend));
    }
    checks.extend(bus(session).await);
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(&checks)?)?;
    } else {
        for check in &checks {
            let mark = match check.state {
                State::Ok => "ok  ",
                State::Note => "note",
                State::Fail => "FAIL",
            };
            writeln!(out, "{mark}  {:<13}  {}", check.name, check.found)?;
            if !check.remedy.is_empty() {
                writeln!(out, "      {:<13}  -> {}", "", check.remedy)?;
            }
        }
    }
    match checks.iter().any(|check| check.state == State::Fail) {
        true => Err(Error::Unhealthy),
        false => Ok(()),
    }
}

fn board(root: &Path) -> Check {
    let board = muse_boards::detect(root);
    // Ends with a NUL byte.
    let model = std::fs::read_to_string(root.join("proc/device-tree/model")).unwrap_or_default();
    let model = model.trim_end_matches('\0');
    let model = if model.is_empty() { String::new() } else { format!(" ({model})") };
    Check::ok("board", format!("{}{model}, files for target {}", board.name, board.layout.target))
}

/// The features that kernels of this project use, as the kernel spells them.
const FEATURES: [&str; 10] =
    ["avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "asimdhp", "i8mm", "bf16"];

fn cpu(root: &Path) -> Check {
    let info = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let is_list = |line: &&str| line.starts_with("flags") || line.starts_with("Features");
    let list = info.lines().find(is_list).and_then(|line| line.split_once(':')).map_or("", |(_, list)| list);
    let has = |feature: &&str| list.split_whitespace().any(|word| word == *feature);
    let found: Vec<_> = FEATURES.into_iter().filter(has).collect();
    match found.as_slice() {
        [] => Check::note("cpu", "no vector features that kernels use", "models answer, slowly"),
        found => Check::ok("cpu", found.join(", ")),
    }
}

fn threads(root: &Path) -> Check {
    let board = muse_boards::detect(root);
    let (fast, cores) = (board.fast_cores(root), std::thread::available_parallelism().map_or(1, usize::from));
    Check::ok(
        "threads",
        format!("{} on cores {fast:?}; {cores} cores may be used", board.default_threads(root)),
    )
}

fn memory(root: &Path) -> Check {
    let Some(free) = muse_boards::available_bytes(root) else {
        return Check::fail("memory", "/proc/meminfo cannot be read", "mount /proc");
    };
    let budget = muse_boards::detect(root).budget_bytes(free);
    let found = format!("{} free, {} for models", human_bytes(free), human_bytes(budget));
    match budget >= 256 << 20 {
        true => Check::ok("memory", found),
        false => Check::note("memory", found, "little room: end other programs, or use a smaller model"),
    }
}

fn library(root: &Path, name: &str) -> Option<PathBuf> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = [
        format!("usr/lib/{triple}"),
        format!("usr/lib/{triple}/nvidia"),
        format!("usr/lib/{triple}/tegra"),
        "usr/lib".into(),
        "usr/lib64".into(),
        "usr/local/lib".into(),
        "usr/local/cuda/lib64".into(),
    ];
    folders.iter().map(|folder| root.join(folder).join(name)).find(|path| path.exists())
}

/// What `engine.backend = "cuda"` needs, or that it could be set.
fn cuda(root: &Path, engine: &crate::config::Engine) -> Check {
    let device = muse_runtime::cuda_device();
    if engine.backend == BackendChoice::Cuda {
        return asked("cuda", "cuda", device, engine);
    }
    let driver = match (library(root, "libcuda.so.1"), muse_boards::detect(root).gpu.is_some()) {
        (Some(path), _) => format!("driver library {}", path.display()),
        (None, true) => "libcuda.so.1 is missing on a board with a GPU".into(),
        (None, false) => "libcuda.so.1 is not installed".into(),
    };
    match device {
        Ok(found) => Check::note("cuda", found, "not used: engine.backend is not \"cuda\""),
        Err(_) => Check::note("cuda", driver, "engine.backend is not \"cuda\"; nothing to do"),
    }
}

/// What `engine.backend = "rknn"` needs, or that it could be set.
fn npu(root: &Path, engine: &crate::config::Engine) -> Check {
    if engine.backend == BackendChoice::Rknn {
        return asked("npu", "rknn", muse_runtime::npu_device(), engine);
    }
    let why = "engine.backend is not \"rknn\"; nothing to do";
    match (library(root, "librknnrt.so"), muse_boards::detect(root).npu) {
        (Some(path), _) => Check::note("npu", format!("runtime library {}", path.display()), why),
        (None, true) => Check::note("npu", "librknnrt.so is missing on a board with an NPU", why),
        (None, false) => Check::note("npu", "librknnrt.so is not installed", why),
    }
}

/// What was found of the device that `engine.backend` asks for.
fn asked(
    name: &'static str,
    backend: &str,
    device: Result<String, impl Display>,
    engine: &crate::config::Engine,
) -> Check {
    match device {
        Ok(found) => Check::ok(name, found),
        Err(problem) if engine.cpu_fallback => {
            Check::note(name, problem.to_string(), "models run on the CPU: engine.cpu_fallback allows it")
        }
        Err(problem) => {
            let remedy =
                "models are refused until then; or set engine.backend to \"cpu\", or engine.cpu_fallback";
            Check::fail(name, format!("{problem}, and engine.backend is \"{backend}\""), remedy)
        }
    }
}

/// What is said of the configuration, and the backend that models run on by it.
fn configuration(root: &Path, path: Option<&Path>, session: bool) -> (Vec<Check>, BackendChoice) {
    let default = root.join(crate::args::CONFIG.trim_start_matches('/'));
    let (config, found) = match path.or(default.exists().then_some(&*default)) {
        None => (Config::default(), "none; the defaults are used".to_owned()),
        Some(path) => match Config::read(path) {
            Ok(config) => (config, path.display().to_string()),
            Err(problem) => {
                let remedy = "correct the line, then restart mused";
                let check = Check::fail("config", problem.to_string(), remedy);
                return (vec![check], BackendChoice::default());
            }
        },
    };
    let (cuda, npu) = (cuda(root, &config.engine), npu(root, &config.engine));
    let backend = match (config.engine.backend, cuda.state, npu.state) {
        (BackendChoice::Cuda, State::Note, _) | (BackendChoice::Rknn, _, State::Note) => BackendChoice::Cpu,
        (backend, ..) => backend,
    };
    let checks = vec![Check::ok("config", found), cuda, npu, models_folder(&config.models_dir, session)];
    (checks, backend)
}

/// Whether the kernels that models would run on compute what they should on this machine.
fn selftest(backend: BackendChoice) -> Check {
    let name = "kernels";
    let remedy = "answers would be wrong: take another engine.backend, and report this with the output of \
                  `musectl doctor --json`";
    let tried = match muse_runtime::selftest::selftest(backend) {
        Ok(tried) => tried,
        Err(problem) => return Check::fail(name, problem.to_string(), "models cannot be loaded either"),
    };
    let shown =
        |tried: &Tried| format!("{} off by {:.0e}, at worst {:.0e}", tried.what, tried.closest, tried.worst);
    let wrong: Vec<_> = tried.iter().filter(|tried| !tried.passed()).map(shown).collect();
    match wrong.as_slice() {
        [] => Check::ok(name, format!("{} kinds of model agree with the reference", tried.len())),
        wrong => Check::fail(
            name,
            format!("{} of {} kinds of model: {}", wrong.len(), tried.len(), wrong.join("; ")),
            remedy,
        ),
    }
}

fn models_folder(folder: &Path, session: bool) -> Check {
    let make = "muse-quantize convert SOURCE -o NAME.muse makes one";
    let shown = folder.display();
    // A mused of one's own is given its folder on the command line.
    let absent = if session { Check::note } else { Check::fail };
    match std::fs::read_dir(folder) {
        Err(problem) if problem.kind() == std::io::ErrorKind::PermissionDenied => {
            Check::note("models folder", format!("{shown} may not be read by you"), "see `musectl models`")
        }
        Err(problem) => absent(
            "models folder",
            format!("{shown}: {problem}"),
            format!("make it: systemd-tmpfiles --create, or mkdir -p {shown}"),
        ),
        Ok(entries) => {
            let is_model = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "muse");
            match entries.filter_map(|e| Some(e.ok()?.path())).filter(is_model).count() {
                0 => absent("models folder", format!("{shown} holds no .muse file"), make.into()),
                count => Check::ok("models folder", format!("{shown}, {count} models")),
            }
        }
    }
}

async fn bus(session: bool) -> Vec<Check> {
    let connection = match client::connect(session).await {
        Ok(connection) => connection,
        Err(problem) => {
            return vec![Check::fail("bus", problem.to_string(), "start the bus, then try again")];
        }
    };
    let kind = if session { "session bus" } else { "system bus" };
    let reached = Check::ok("bus", format!("{kind} reached"));
    vec![reached, service(&connection).await]
}

async fn service(connection: &zbus::Connection) -> Check {
    let name = "service";
    let start = "start it: systemctl enable --now mused, or `mused --session --models DIR`";
    let running = async {
        let bus = fdo::DBusProxy::new(connection).await?;
        let name = zbus::names::BusName::try_from(crate::BUS_NAME)?;
        let running = bus.name_has_owner(name).await?;
        let activatable = bus.list_activatable_names().await?;
        Ok::<_, zbus::Error>((running, activatable.iter().any(|n| n.as_str() == crate::BUS_NAME)))
    };
    match running.await {
        Err(problem) => return Check::fail(name, problem.to_string(), "see the log of the bus"),
        Ok((false, false)) => return Check::fail(name, "not running, and the bus does not know it", start),
        Ok((false, true)) => return Check::ok(name, "not running; the first call starts it"),
        Ok((true, _)) => {}
    }
    let version = async { client::ManagerProxy::new(connection).await?.version().await };
    match version.await.map_err(Error::from) {
        Ok(version) => Check::ok(name, format!("mused {version} is running")),
        Err(problem) => Check::fail(name, problem.to_string(), "see its log: journalctl -u mused"),
    }
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;
    use crate::config::Engine;

    #[test]
    fn a_gpu_that_is_asked_for_and_cannot_be_used_is_a_failure_with_its_reason() {
        let root = tempfile::tempdir().unwrap();
        let engine = |backend, cpu_fallback| Engine { backend, cpu_fallback, ..Engine::default() };
        let asked = cuda(root.path(), &engine(BackendChoice::Cuda, false));
        assert_eq!(asked.state, State::Fail);
        assert!(asked.found.contains("this build has no CUDA"), "{}", asked.found);
        assert!(asked.remedy.contains("engine.backend"), "{}", asked.remedy);
        let allowed = cuda(root.path(), &engine(BackendChoice::Cuda, true));
        assert_eq!(allowed.state, State::Note);
        assert!(allowed.found.contains("this build has no CUDA"), "{}", allowed.found);
        let file = root.path().join("mused.toml");
        let write =
            |rest: &str| std::fs::write(&file, format!("[engine]\nbackend = \"cuda\"\n{rest}")).unwrap();
        let chosen = || configuration(root.path(), Some(&file), true).1;
        write("");
        assert_eq!(chosen(), BackendChoice::Cuda);
        write("cpu_fallback = true");
        assert_eq!(chosen(), BackendChoice::Cpu, "whose kernels are what is to be tried");
        let lacking = npu(root.path(), &engine(BackendChoice::Cpu, false));
        assert_eq!((lacking.state, &*lacking.found), (State::Note, "librknnrt.so is not installed"));
        let not_asked = cuda(root.path(), &engine(BackendChoice::Cpu, false));
        assert_eq!((not_asked.state, &*not_asked.found), (State::Note, "libcuda.so.1 is not installed"));
    }
}
