//! `mused.toml`. Every field has a unit, a bound and a default; an unknown key is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muse_runtime::{BackendChoice, CacheDtype, Placement};
use serde::{Deserialize, Deserializer};

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}; check the path after --config")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is not valid:\n{problem}\nsee the comments in the default mused.toml for every key and its range"
    )]
    Parse { path: PathBuf, problem: String },
    #[error("{path}: alias {alias:?} {problem}")]
    Alias { path: PathBuf, alias: String, problem: String },
    #[error("{path}: the drafter of {model:?} {problem}")]
    Drafter { path: PathBuf, model: String, problem: String },
}

/// The whole file. `Config::default()` is what an empty file means.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of `.muse` files; its subfolders are not read.
    pub models_dir: PathBuf,
    /// Model or alias for callers that name none; where absent, the only model there is.
    pub default_model: Option<String>,
    /// Other names of models: `chat = "smollm2-135m-instruct"`.
    pub aliases: BTreeMap<String, String>,
    /// What drafts for models, both by the names of their files: `muse-glimmer-30b = "muse-glimmer-30b-assistant"`.
    pub drafters: BTreeMap<String, String>,
    pub memory: Memory,
    pub engine: Engine,
    pub limits: Limits,
    pub idle: Idle,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// MiB that all loaded models may take together, weights and working memory; where absent, the board's budget.
    #[serde(deserialize_with = "some_bounded::<16, 16_777_216, _>")]
    pub budget_mib: Option<u64>,
    /// MiB of experts that a model may keep in memory; where absent, what is left of the budget.
    #[serde(deserialize_with = "some_bounded::<1, 16_777_216, _>")]
    pub experts_mib: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// `cpu`, `cuda`, `rknn` or `reference`. Nothing else is tried where the one that is named cannot be used, but as
    /// `cpu_fallback` says.
    pub backend: BackendChoice,
    /// Whether a model that the GPU or NPU cannot run is run on the CPU, which its status then says with the reason. One that is
    /// over the budget is refused all the same.
    pub cpu_fallback: bool,
    /// Threads; where absent, the board's number of fast cores. The service keeps to those where they are enough.
    #[serde(deserialize_with = "some_bounded::<1, 1024, _>")]
    pub threads: Option<u64>,
    /// `mapped`, or `copied` into huge pages of the service's own memory, which is faster where the kernel holds files
    /// in small pages and cannot be reclaimed, or `reserved`: copied into huge pages that are set aside, or not loaded.
    /// On a GPU weights are copied to it, but for `shared`: it reads the file in place, or the model is not loaded.
    pub weights: Placement,
    /// Tokens of context a session may have; where absent, the model's own, at most 8192.
    #[serde(deserialize_with = "some_bounded::<16, 16_777_216, _>")]
    pub context: Option<u64>,
    /// Sequences that stay in the cache and are answered together.
    #[serde(deserialize_with = "bounded::<1, 64, _>")]
    pub slots: u64,
    /// Most tokens of one step.
    #[serde(deserialize_with = "bounded::<1, 8192, _>")]
    pub batch_tokens: u64,
    /// Most tokens of one image; where absent, the model's own number. Larger ones are made smaller.
    #[serde(deserialize_with = "some_bounded::<1, 1_048_576, _>")]
    pub image_tokens: Option<u64>,
    /// Most tokens of one sound; where absent, as many as the context has. Longer ones are refused.
    #[serde(deserialize_with = "some_bounded::<1, 1_048_576, _>")]
    pub audio_tokens: Option<u64>,
    /// Whether tokens that repeat the prompt or the answer, and those of a drafter, may be computed several in one step.
    pub speculation: bool,
    /// How keys and values are kept: `f32`, `f16`, `int8`, `int8-int4` (values in 4 bits) or `int4`; where absent,
    /// f16, or f32 for a file of f32.
    #[serde(deserialize_with = "some_cache")]
    pub cache: Option<CacheDtype>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions open at once.
    #[serde(deserialize_with = "bounded::<1, 4096, _>")]
    pub sessions: u64,
    /// Sessions open at once by one client of the bus.
    #[serde(deserialize_with = "bounded::<1, 4096, _>")]
    pub sessions_per_client: u64,
    /// Sessions open at once by all clients of one user.
    #[serde(deserialize_with = "bounded::<1, 4096, _>")]
    pub sessions_per_user: u64,
    /// Requests that may wait for the engine.
    #[serde(deserialize_with = "bounded::<1, 4096, _>")]
    pub queue: u64,
    /// Messages of one call, or texts to embed.
    #[serde(deserialize_with = "bounded::<1, 65_536, _>")]
    pub messages: u64,
    /// KiB of text of one call: messages, tools and stop texts together, or texts to embed.
    #[serde(deserialize_with = "bounded::<1, 65_536, _>")]
    pub text_kib: u64,
    /// MiB of the files of images, videos and sounds of one call.
    #[serde(deserialize_with = "bounded::<1, 1024, _>")]
    pub images_mib: u64,
    /// Frames that wait for a slow reader before its answer is ended.
    #[serde(deserialize_with = "bounded::<2, 65_536, _>")]
    pub stream_frames: u64,
    /// Seconds that a reader may take nothing before its stream is closed.
    #[serde(deserialize_with = "bounded::<1, 3600, _>")]
    pub stream_stall_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Idle {
    /// Seconds without an answer after which a model's memory is given back; 0 is never.
    #[serde(deserialize_with = "bounded::<0, 31_536_000, _>")]
    pub unload_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            models_dir: "/var/lib/muse/models".into(),
            default_model: None,
            aliases: BTreeMap::new(),
            drafters: BTreeMap::new(),
            memory: Memory::default(),
            engine: Engine::default(),
            limits: Limits::default(),
            idle: Idle::default(),
        }
    }
}

#[expect(clippy::derivable_impls, reason = "the defaults of all sections stand side by side")]
impl Default for Memory {
    fn default() -> Self {
        Self { budget_mib: None, experts_mib: None }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            backend: BackendChoice::Cpu,
            cpu_fallback: false,
            threads: None,
            weights: Placement::Mapped,
            context: None,
            slots: 4,
            batch_tokens: 128,
            image_tokens: None,
            audio_tokens: None,
            speculation: true,
            cache: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 64,
            sessions_per_client: 16,
            sessions_per_user: 32,
            queue: 64,
            messages: 1024,
            text_kib: 1024,
            images_mib: 64,
            stream_frames: 1024,
            stream_stall_seconds: 30,
        }
    }
}

impl Default for Idle {
    fn default() -> Self {
        Self { unload_seconds: 600 }
    }
}

impl Limits {
    pub fn stream_stall(&self) -> Duration {
        Duration::from_secs(self.stream_stall_seconds)
    }

    /// Bytes of text of one call.
    pub fn text_bytes(&self) -> usize {
        usize::try_from(self.text_kib).unwrap_or(usize::MAX).saturating_mul(1024)
    }

    /// Bytes of the files of images, videos and sounds of one call.
    pub fn image_bytes(&self) -> usize {
        usize::try_from(self.images_mib).unwrap_or(usize::MAX).saturating_mul(1 << 20)
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], with the line of the fault where the fault has one.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::parse(path, &text)
    }

    /// Parses and checks `text`, naming `path` in errors.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|e| ConfigError::Parse { path: path.into(), problem: e.to_string() })?;
        for (alias, target) in &config.aliases {
            let problem = if !crate::models::valid_name(alias) {
                format!("is not a name: {}", crate::models::NAME_RULE)
            } else if config.aliases.contains_key(target) {
                format!("points at {target:?}, which is an alias too; name the model itself")
            } else if !crate::models::valid_name(target) {
                format!("points at {target:?}, which is not a model name: {}", crate::models::NAME_RULE)
            } else {
                continue;
            };
            return Err(ConfigError::Alias { path: path.into(), alias: alias.clone(), problem });
        }
        for (model, drafter) in &config.drafters {
            let problem = if config.aliases.contains_key(model) {
                "is of an alias; name the model itself".to_owned()
            } else if let Some(name) =
                [model, drafter].into_iter().find(|name| !crate::models::valid_name(name))
            {
                format!("is {drafter:?}; {name:?} is not a model name: {}", crate::models::NAME_RULE)
            } else {
                continue;
            };
            return Err(ConfigError::Drafter { path: path.into(), model: model.clone(), problem });
        }
        Ok(config)
    }
}

fn bounded<'de, const MIN: u64, const MAX: u64, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let value = i64::deserialize(from)?;
    u64::try_from(value)
        .ok()
        .filter(|v| (MIN..=MAX).contains(v))
        .ok_or_else(|| serde::de::Error::custom(format!("{value} is out of range: {MIN} to {MAX}")))
}

fn some_bounded<'de, const MIN: u64, const MAX: u64, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<u64>, D::Error> {
    bounded::<MIN, MAX, D>(from).map(Some)
}

fn some_cache<'de, D: Deserializer<'de>>(from: D) -> Result<Option<CacheDtype>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("mused.toml"), text)
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    /// The file that is installed says in comments what the defaults are; this keeps it honest.
    #[test]
    fn the_installed_file_means_the_defaults() {
        let installed = include_str!("../../systemd/mused.toml");
        assert_eq!(parse(installed).unwrap(), Config::default());
        let uncommented: String = installed
            .lines()
            .map(|line| line.strip_prefix('#').filter(|l| !l.starts_with([' ', '#'])).unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        let config = parse(&uncommented).expect("every commented key is a valid key");
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.idle, Idle::default());
        assert_eq!(config.engine.slots, Engine::default().slots);
        assert_eq!(config.engine.cpu_fallback, Engine::default().cpu_fallback);
        assert_eq!(config.engine.batch_tokens, Engine::default().batch_tokens);
        assert_eq!(config.engine.speculation, Engine::default().speculation);
        assert_eq!(config.engine.cache, Some(CacheDtype::F16));
        assert_eq!(config.models_dir, Config::default().models_dir);
    }

    #[test]
    fn a_fault_names_its_line_and_its_range() {
        let cases = [
            ("unknown key", "models_dir = \"/x\"\nmodel_dir = \"/y\"", &["line 2", "model_dir"][..]),
            ("unknown section", "[limit]\nsessions = 1", &["line 1", "limit"]),
            ("too small", "[limits]\nsessions = 0", &["line 2", "0 is out of range: 1 to 4096"]),
            ("negative", "[limits]\n\nqueue = -1", &["line 3", "-1 is out of range"]),
            ("not a yes", "[engine]\ncpu_fallback = 1", &["line 2", "expected a boolean"]),
            ("no such place", "[engine]\nweights = \"gpu\"", &["line 2", "shared"]),
            ("wrong type", "[engine]\nslots = \"4\"", &["line 2", "expected i64"]),
            (
                "no such cache",
                "[engine]\ncache = \"q4\"",
                &["line 2", "a cache is f32, f16, int8, int8-int4 or int4, not 'q4'"],
            ),
            ("not toml", "[engine\n", &["line 1"]),
            ("alias of an alias", "[aliases]\na = \"b\"\nb = \"c\"", &["\"a\"", "alias too"]),
            ("alias with a path", "[aliases]\na = \"../b\"", &["\"a\"", "../b", "not a model name"]),
            ("drafter with a path", "[drafters]\na = \"../b\"", &["\"a\"", "../b", "not a model name"]),
            (
                "drafter of an alias",
                "[aliases]\na = \"b\"\n[drafters]\na = \"c\"",
                &["\"a\"", "is of an alias"],
            ),
        ];
        for (name, text, needles) in cases {
            let message = parse(text).expect_err(name).to_string();
            for needle in needles {
                assert!(message.contains(needle), "{name}: {needle:?} is not in:\n{message}");
            }
        }
    }
}
