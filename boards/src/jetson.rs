//! What NVIDIA's Linux for Jetson boards says of itself in files: its release, the power mode, clocks and heat. Which files
//! these are, and who says so, is in `docs/jetson.md`.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::files::number;

/// A release of Jetson Linux (L4T).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub major: u32,
    /// `4.3`
    pub revision: String,
}

impl Release {
    /// The JetPack that it is part of; none of releases that this version knows nothing of.
    pub fn jetpack(&self) -> Option<&'static str> {
        match self.major {
            35 => Some("JetPack 5"),
            36 => Some("JetPack 6"),
            38 => Some("JetPack 7.0 or 7.1"),
            39 => Some("JetPack 7.2"),
            _ => None,
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jetson Linux {}.{}", self.major, self.revision)?;
        self.jetpack().map_or(Ok(()), |jetpack| write!(f, " ({jetpack})"))
    }
}

/// The release whose file system is at `root` (`/`; a folder in tests): the first line of `/etc/nv_tegra_release`, `# R36
/// (release), REVISION: 4.3, ...`. `None` where there is no such line.
pub fn release(root: &Path) -> Option<Release> {
    let text = fs::read_to_string(root.join("etc/nv_tegra_release")).ok()?;
    let mut parts = text.lines().next()?.split(',').map(str::trim);
    let major = parts.next()?.strip_prefix("# R")?.strip_suffix("(release)")?.trim().parse().ok()?;
    let revision = parts.next()?.strip_prefix("REVISION:")?.trim();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    revision.split('.').all(is_number).then(|| Release { major, revision: revision.to_owned() })
}

/// One of the modes that `nvpmodel` sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerMode {
    pub id: u32,
    /// `15W`; none where the configuration has no mode of that number.
    pub name: Option<String>,
}

/// The mode that was set last, in `/var/lib/nvpmodel/status`: `pmode:0002`. `None` where no file says it.
pub fn power_mode(root: &Path) -> Option<PowerMode> {
    let text = fs::read_to_string(root.join("var/lib/nvpmodel/status")).ok()?;
    let id = text.split_whitespace().find_map(|word| word.strip_prefix("pmode:"))?.parse().ok()?;
    let name = power_modes(root).into_iter().find(|mode| mode.id == id).and_then(|mode| mode.name);
    Some(PowerMode { id, name })
}

/// The modes of `/etc/nvpmodel.conf`: its lines `< POWER_MODEL ID=2 NAME=MAXN_SUPER >`.
pub fn power_modes(root: &Path) -> Vec<PowerMode> {
    let text = fs::read_to_string(root.join("etc/nvpmodel.conf")).unwrap_or_default();
    let mode = |line: &str| {
        let words = line.trim().strip_prefix('<')?.strip_suffix('>')?.trim().strip_prefix("POWER_MODEL ")?;
        let value = |key: &str| words.split_whitespace().find_map(|word| word.strip_prefix(key));
        Some(PowerMode { id: value("ID=")?.parse().ok()?, name: value("NAME=").map(str::to_owned) })
    };
    text.lines().filter_map(mode).collect()
}

/// A clock of the GPU, in Hz.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// `17000000.gpu`
    pub name: String,
    pub now: u64,
    /// What the power mode, or a person, allows.
    pub allowed: u64,
    /// What the chip has.
    pub most: u64,
}

/// Names of what a folder of `/sys` holds, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The clocks of the GPU's multiprocessors, of `/sys/class/devfreq`: `17000000.gpu` of Orin (`17000000.ga10b` under JetPack
/// 5), `gpu-gpc-0` and others of Thor.
pub fn gpu_clocks(root: &Path) -> Vec<Clock> {
    let folder = root.join("sys/class/devfreq");
    let is_gpu =
        |name: &String| name.ends_with(".gpu") || name.ends_with(".ga10b") || name.starts_with("gpu-gpc-");
    let clock = |name: String| {
        let own = folder.join(&name);
        let allowed = number(&own.join("max_freq"))?;
        let all = fs::read_to_string(own.join("available_frequencies")).unwrap_or_default();
        let most = all.split_whitespace().filter_map(|hz| hz.parse().ok()).max().unwrap_or(allowed);
        Some(Clock { now: number(&own.join("cur_freq"))?, allowed, most, name })
    };
    names(&folder).into_iter().filter(is_gpu).filter_map(clock).collect()
}

/// How warm a board is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heat {
    /// The warmest zone, in degrees Celsius.
    pub hottest: Option<(String, f64)>,
    /// What is slowed down for its temperature now: `gpu-throttle-alert`.
    pub alerts: Vec<String>,
}

/// The zones of `/sys/class/thermal`, and of its cooling devices those called `-alert` that are on. A fan is a cooling device
/// too, and so are caps of clocks, which power modes set.
pub fn heat(root: &Path) -> Heat {
    let folder = root.join("sys/class/thermal");
    let mut heat = Heat::default();
    for name in names(&folder) {
        let own = folder.join(&name);
        let Ok(kind) = fs::read_to_string(own.join("type")) else { continue };
        let kind = kind.trim().to_owned();
        if name.starts_with("thermal_zone") {
            // A zone whose part is switched off cannot be read; one of a broken sensor may be below zero.
            let text = fs::read_to_string(own.join("temp")).unwrap_or_default();
            let Ok(thousandths) = text.trim().parse::<i32>() else { continue };
            let degrees = f64::from(thousandths) / 1000.0;
            if heat.hottest.as_ref().is_none_or(|(_, hottest)| degrees > *hottest) {
                heat.hottest = Some((kind, degrees));
            }
        } else if kind.ends_with("-alert") && number(&own.join("cur_state")).is_some_and(|state| state > 0) {
            heat.alerts.push(kind);
        }
    }
    heat
}

#[cfg(test)]
mod tests;
