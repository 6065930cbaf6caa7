//! What `musectl doctor` says of a Jetson: its release, power mode, clocks and heat.

use std::path::Path;

use muse_boards::jetson::{self, Clock, PowerMode};

use super::doctor::Check;

/// Nothing where the machine at `root` is no Jetson.
pub(super) fn checks(root: &Path) -> Vec<Check> {
    let known = muse_boards::detect(root).gpu.is_some();
    if !known && jetson::release(root).is_none() {
        return Vec::new();
    }
    vec![release(root), power(root), clocks(root), heat(root)]
}

fn release(root: &Path) -> Check {
    let name = "jetson";
    match jetson::release(root) {
        None => Check::note(
            name,
            "/etc/nv_tegra_release is missing, or does not say which release this is",
            "on NVIDIA's Jetson Linux the package nvidia-l4t-core brings it; kernels for the GPU need JetPack 6",
        ),
        Some(release) if release.major < 36 => Check::note(
            name,
            release.to_string(),
            "its driver is older than kernels for the GPU need: install JetPack 6 or newer",
        ),
        Some(release) => Check::ok(name, release.to_string()),
    }
}

fn shown(mode: &PowerMode) -> String {
    match &mode.name {
        Some(name) => format!("{name} (mode {})", mode.id),
        None => format!("mode {}, which /etc/nvpmodel.conf does not name", mode.id),
    }
}

fn power(root: &Path) -> Check {
    let name = "power mode";
    let Some(mode) = jetson::power_mode(root) else {
        return Check::note(
            name,
            "/var/lib/nvpmodel/status is missing, or says no mode",
            "`sudo nvpmodel -q` says which it is; the service nvpmodel of the package nvidia-l4t-nvpmodel sets one",
        );
    };
    let is_free = |mode: &PowerMode| mode.name.as_ref().is_some_and(|name| name.starts_with("MAXN"));
    match jetson::power_modes(root).into_iter().find(is_free).filter(|_| !is_free(&mode)) {
        None => Check::ok(name, shown(&mode)),
        Some(free) => Check::note(
            name,
            shown(&mode),
            format!(
                "caps clocks: `sudo nvpmodel -m {}` sets {}, where supply and cooling allow it",
                free.id,
                shown(&free)
            ),
        ),
    }
}

fn clocks(root: &Path) -> Check {
    let name = "gpu clock";
    let clocks = jetson::gpu_clocks(root);
    let of = |Clock { name, now, allowed, most }: &Clock| {
        let mhz = |hz: u64| hz / 1_000_000;
        format!("{name} {} MHz now, {} allowed, {} at most", mhz(*now), mhz(*allowed), mhz(*most))
    };
    let found = clocks.iter().map(of).collect::<Vec<_>>().join("; ");
    if clocks.is_empty() {
        let remedy =
            "the GPU's driver is not loaded, or its files are elsewhere: see `journalctl -k -g nvgpu`";
        return Check::note(name, "no GPU under /sys/class/devfreq", remedy);
    }
    match clocks.iter().any(|clock| clock.allowed < clock.most) {
        true => Check::note(
            name,
            found,
            "capped, by the power mode or by hand; `sudo jetson_clocks --show` says more",
        ),
        false => Check::ok(name, found),
    }
}

fn heat(root: &Path) -> Check {
    let name = "heat";
    let heat = jetson::heat(root);
    let hottest = heat.hottest.map(|(zone, degrees)| format!("{zone} {degrees:.1} C"));
    match (hottest, heat.alerts.as_slice()) {
        (None, []) => Check::note(
            name,
            "no readable zone under /sys/class/thermal",
            "whether the board is throttled cannot be said; `tegrastats` may say it",
        ),
        (Some(hottest), []) => Check::ok(name, format!("{hottest} at most, nothing throttled")),
        (hottest, alerts) => Check::note(
            name,
            format!(
                "throttled: {}{}",
                alerts.join(", "),
                hottest.map_or(String::new(), |zone| format!("; {zone}"))
            ),
            "answers are slower until it is cooler: check fan and heat sink, or set a lower power mode",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::doctor::State;
    use super::*;

    /// An AGX Orin by its device tree, with `files`.
    fn orin(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let tree = [("proc/device-tree/compatible", "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0")];
        for (path, text) in tree.iter().chain(files) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn found(root: &Path) -> Vec<(State, String)> {
        checks(root).into_iter().map(|check| (check.state, check.found + " -> " + &check.remedy)).collect()
    }

    #[test]
    fn another_machine_is_asked_nothing() {
        assert!(checks(tempfile::tempdir().unwrap().path()).is_empty());
    }

    #[test]
    fn each_thing_that_is_missing_is_named_with_where_it_would_be() {
        let root = orin(&[]);
        let found = found(root.path());
        let parts =
            ["/etc/nv_tegra_release", "/var/lib/nvpmodel/status", "/sys/class/devfreq", "/sys/class/thermal"];
        assert_eq!(found.len(), parts.len());
        for ((state, text), part) in found.iter().zip(parts) {
            assert!(*state == State::Note && text.contains(part), "{text}");
        }
    }

    #[test]
    fn caps_heat_and_an_old_release_are_told_with_what_to_do() {
        let root = orin(&[
            ("etc/nv_tegra_release", "# R35 (release), REVISION: 4.1, GCID: 33958178\n"),
            ("var/lib/nvpmodel/status", "pmode:0002\n"),
            ("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"),
            ("sys/class/devfreq/17000000.ga10b/cur_freq", "306000000\n"),
            ("sys/class/devfreq/17000000.ga10b/max_freq", "612000000\n"),
            ("sys/class/devfreq/17000000.ga10b/available_frequencies", "306000000 1300500000\n"),
            ("sys/class/thermal/thermal_zone0/type", "tj-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "99500\n"),
            ("sys/class/thermal/cooling_device1/type", "cpu-throttle-alert\n"),
            ("sys/class/thermal/cooling_device1/cur_state", "1\n"),
        ]);
        let texts: Vec<_> = found(root.path());
        for ((state, text), parts) in texts.iter().zip([
            ["Jetson Linux 35.4.1 (JetPack 5)", "JetPack 6"],
            ["MODE_30W (mode 2)", "nvpmodel -m 0` sets MAXN (mode 0)"],
            ["17000000.ga10b 306 MHz now, 612 allowed, 1300 at most", "capped"],
            ["throttled: cpu-throttle-alert; tj-thermal 99.5 C", "fan"],
        ]) {
            assert!(*state == State::Note && parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }

    #[test]
    fn a_board_at_its_best_is_ok() {
        let root = orin(&[
            ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081\n"),
            ("var/lib/nvpmodel/status", "pmode:0000\n"),
            ("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"),
            ("sys/class/devfreq/17000000.gpu/cur_freq", "306000000\n"),
            ("sys/class/devfreq/17000000.gpu/max_freq", "1300500000\n"),
            ("sys/class/thermal/thermal_zone0/type", "tj-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "41000\n"),
        ]);
        assert!(found(root.path()).iter().all(|(state, _)| *state == State::Ok), "{:?}", found(root.path()));
    }
}
