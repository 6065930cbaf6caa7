use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use toml::{Table, Value};

/// File name without `.toml`, and text.
const PROFILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// A board profile, inheritance resolved.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// The profile's file name: `rk3588`.
    #[serde(default)]
    pub name: String,
    /// For people.
    pub description: String,
    /// Words of `/proc/device-tree/compatible` that tell this board. Not inherited.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// The CPU architecture whose unknown machines use this profile. Not inherited.
    #[serde(default)]
    pub fallback_arch: Option<String>,
    pub cpu: Cpu,
    pub memory: Memory,
    #[serde(default)]
    pub gpu: Option<Gpu>,
    /// Whether it has an NPU that `engine.backend = "rknn"` takes.
    #[serde(default)]
    pub npu: bool,
    pub layout: Layout,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// As [`std::env::consts::ARCH`] writes it.
    pub arch: String,
    /// Kernel numbers of the cores that should work on a model; empty where the kernel is to be asked.
    #[serde(default)]
    pub big_cores: Vec<usize>,
    /// Kernel numbers of the cores that should not.
    #[serde(default)]
    pub little_cores: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The module's memory as sold, where the profile fixes it.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Share of the free memory that a model may take, weights and working memory together.
    pub budget_percent: u8,
    /// Pin rate of the memory bus, GB/s (10^9).
    #[serde(default)]
    pub peak_gb_per_s: Option<f64>,
    /// What a reader reached, GB/s; the profile says who measured.
    #[serde(default)]
    pub measured_gb_per_s: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// CUDA compute capability without the dot: 87.
    pub sm: u32,
    pub multiprocessors: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Layout family that the board's kernels read; a `.muse` file names the one it was made for.
    pub target: String,
}

/// No profile has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no board {name:?}; known boards: {}", .known.join(", "))]
pub struct UnknownBoard {
    pub name: String,
    pub known: Vec<String>,
}

/// Why a profile cannot be used: a mistake in this crate's own files, found by its tests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("profile {profile}: {problem}")]
    Malformed { profile: String, problem: String },
    #[error("profile {profile} inherits from {parent}, which does not exist")]
    UnknownParent { profile: String, parent: String },
    #[error("profile {0} inherits from itself: {1}")]
    Cycle(String, String),
}

static BOARDS: LazyLock<Vec<Board>> = LazyLock::new(|| {
    // The profiles are part of this program and a test resolves them all: a failure is our bug.
    resolve_all(PROFILES).expect("every profile in boards/profiles resolves")
});

/// Every board, by name.
pub fn all() -> &'static [Board] {
    &BOARDS
}

/// The board whose profile is `name.toml`.
///
/// # Errors
/// [`UnknownBoard`], with the names there are.
pub fn by_name(name: &str) -> Result<&'static Board, UnknownBoard> {
    all().iter().find(|b| b.name == name).ok_or_else(|| UnknownBoard {
        name: name.into(),
        known: all().iter().map(|b| b.name.clone()).collect(),
    })
}

fn resolve_all(profiles: &[(&str, &str)]) -> Result<Vec<Board>, ProfileError> {
    let mut tables = BTreeMap::new();
    for (name, text) in profiles {
        tables.insert(*name, text.parse::<Table>().map_err(|e| malformed(name, &e))?);
    }
    tables.keys().map(|name| board(name, &tables)).collect()
}

fn malformed(profile: &str, error: &dyn std::fmt::Display) -> ProfileError {
    ProfileError::Malformed { profile: profile.into(), problem: error.to_string() }
}

fn board(name: &str, tables: &BTreeMap<&str, Table>) -> Result<Board, ProfileError> {
    let table = resolve(name, tables, &mut Vec::new())?;
    let mut board: Board = table.try_into().map_err(|e| malformed(name, &e))?;
    board.name = name.into();
    check(&board).map_err(|problem| malformed(name, &problem))?;
    Ok(board)
}

/// The keys of `name` laid over those of the profile it inherits from.
fn resolve(
    name: &str,
    tables: &BTreeMap<&str, Table>,
    path: &mut Vec<String>,
) -> Result<Table, ProfileError> {
    if path.iter().any(|seen| seen == name) {
        path.push(name.into());
        return Err(ProfileError::Cycle(name.into(), path.join(" -> ")));
    }
    let Some(table) = tables.get(name) else {
        let profile = path.last().cloned().unwrap_or_default();
        return Err(ProfileError::UnknownParent { profile, parent: name.into() });
    };
    path.push(name.into());
    let mut own = table.clone();
    let Some(parent) = own.remove("inherit") else {
        return Ok(own);
    };
    let Value::String(parent) = parent else {
        return Err(malformed(name, &"inherit must be the name of a profile"));
    };
    let mut base = resolve(&parent, tables, path)?;
    base.remove("compatible");
    base.remove("fallback_arch");
    overlay(&mut base, own);
    Ok(base)
}

fn overlay(base: &mut Table, own: Table) {
    for (key, value) in own {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The rules that types cannot say.
fn check(board: &Board) -> Result<(), &'static str> {
    let memory = &board.memory;
    let rate_is_wrong = |rate: Option<f64>| rate.is_some_and(|r| !(r.is_finite() && r > 0.0));
    let mut cores: Vec<_> = board.cpu.big_cores.iter().chain(&board.cpu.little_cores).collect();
    let listed = cores.len();
    cores.sort_unstable();
    cores.dedup();
    match () {
        () if !(1..=100).contains(&memory.budget_percent) => Err("budget_percent must be 1 to 100"),
        () if memory.bytes == Some(0) => Err("memory.bytes must be above 0"),
        () if rate_is_wrong(memory.peak_gb_per_s) => Err("peak_gb_per_s must be above 0"),
        () if rate_is_wrong(memory.measured_gb_per_s) => Err("measured_gb_per_s must be above 0"),
        () if memory.measured_gb_per_s > memory.peak_gb_per_s => {
            Err("measured_gb_per_s must not be above peak_gb_per_s, which must be there")
        }
        () if cores.len() != listed => Err("a core is listed twice"),
        () if board.compatible.iter().any(String::is_empty) => Err("a compatible word is empty"),
        () if board.compatible.is_empty() && board.fallback_arch.is_none() => {
            Err("nothing detects this board: give it compatible words or fallback_arch")
        }
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "description = 'b'\nfallback_arch = 'z80'\n[cpu]\narch = 'z80'\n[memory]\nbudget_percent = 50\n\
                        [layout]\ntarget = 'cpu'\n";

    #[test]
    fn every_profile_in_the_folder_resolves() {
        let boards = resolve_all(PROFILES).unwrap();
        let names: Vec<_> = boards.iter().map(|b| b.name.as_str()).collect();
        let promised = [
            "agx-orin-32",
            "agx-orin-64",
            "generic-arm64",
            "orin-nano",
            "orin-nx-16",
            "pi5",
            "rk3576",
            "rk3588",
            "thor-t5000",
            "x86-64",
        ];
        assert_eq!(names, promised);
    }

    #[test]
    fn no_two_profiles_claim_the_same_machine() {
        let mut claims: Vec<_> =
            all().iter().flat_map(|b| b.compatible.iter().chain(&b.fallback_arch)).collect();
        let claimed = claims.len();
        claims.sort();
        claims.dedup();
        assert_eq!(claims.len(), claimed);
    }

    #[test]
    fn a_child_overrides_single_values_and_inherits_the_rest() {
        let child = "inherit = 'base'\ncompatible = ['a,b']\n[memory]\nbytes = 7\n";
        let boards = resolve_all(&[("base", BASE), ("child", child)]).unwrap();
        let child = &boards[1];
        assert_eq!((child.memory.bytes, child.memory.budget_percent), (Some(7), 50));
        assert_eq!((child.description.as_str(), child.cpu.arch.as_str()), ("b", "z80"));
        assert_eq!(child.fallback_arch, None, "a child must not be a second fallback");
    }

    #[test]
    fn damaged_profiles_are_refused_by_name() {
        let with = |line: &str| format!("inherit = 'base'\ncompatible = ['a']\n{line}");
        for (case, text, message) in [
            ("not toml", "x = [".into(), "profile p: "),
            ("unknown parent", "inherit = 'q'".into(), "profile p inherits from q, which does not exist"),
            ("itself", "inherit = 'p'".into(), "profile p inherits from itself: p -> p"),
            ("parent is a number", "inherit = 3".into(), "profile p: inherit must be the name"),
            ("no detection", "inherit = 'base'".into(), "profile p: nothing detects this board"),
            (
                "empty word",
                "inherit = 'base'\ncompatible = ['']".into(),
                "profile p: a compatible word is empty",
            ),
            ("missing keys", "description = 'x'".into(), "profile p: "),
            ("unknown key", with("colour = 'red'"), "profile p: "),
            ("unknown inner key", with("[memory]\nmegabytes = 1"), "profile p: "),
            ("no budget", with("[memory]\nbudget_percent = 0"), "profile p: budget_percent"),
            ("over budget", with("[memory]\nbudget_percent = 101"), "profile p: budget_percent"),
            ("negative core", with("[cpu]\nbig_cores = [-1]"), "profile p: "),
            ("core twice", with("[cpu]\nbig_cores = [1]\nlittle_cores = [1]"), "profile p: a core is listed"),
            ("NaN rate", with("[memory]\npeak_gb_per_s = nan"), "profile p: peak_gb_per_s"),
            (
                "faster than the bus",
                with("[memory]\npeak_gb_per_s = 1.0\nmeasured_gb_per_s = 2.0"),
                "profile p: measured",
            ),
        ] {
            let error = resolve_all(&[("base", BASE), ("p", text.as_str())]).expect_err(case).to_string();
            assert!(error.starts_with(message), "{case}: {error}");
        }
        let cycle = resolve_all(&[("a", "inherit = 'b'"), ("b", "inherit = 'a'")]).unwrap_err();
        assert_eq!(cycle.to_string(), "profile a inherits from itself: a -> b -> a");
    }

    #[test]
    fn an_unknown_board_is_answered_with_the_known_ones() {
        let message = by_name("toaster").unwrap_err().to_string();
        assert!(message.contains("\"toaster\"") && message.contains("rk3588"), "{message}");
    }
}
