use std::fs;
use std::path::Path;

use crate::{Board, all};

/// The profile of the machine whose file system is at `root` (`/`; a folder in tests).
///
/// The device tree names a machine from its board to its chip; the first of its strings that a profile claims
/// decides. Where there is no device tree, or none of it is known, the architecture's fallback is used.
///
/// # Panics
/// If this program was built for an architecture that has no fallback profile.
pub fn detect(root: &Path) -> &'static Board {
    // Made by the firmware; read as bytes because nothing promises text.
    let compatible = fs::read(root.join("proc/device-tree/compatible")).unwrap_or_default();
    from_device_tree(&compatible)
        .or_else(|| fallback(std::env::consts::ARCH))
        .expect("the supported architectures have a fallback profile")
}

fn from_device_tree(compatible: &[u8]) -> Option<&'static Board> {
    compatible.split(|b| *b == 0).find_map(|entry| {
        let entry = std::str::from_utf8(entry).ok()?;
        all().iter().find(|b| b.compatible.iter().any(|word| has_word(entry, word)))
    })
}

/// True where `word` stands in `text` with no letter or digit on either side: `p3767-0005` in
/// `nvidia,p3768-0000+p3767-0005-super`, but `rockchip,rk3588` not in `rockchip,rk3588s`.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

fn fallback(arch: &str) -> Option<&'static Board> {
    all().iter().find(|b| b.fallback_arch.as_deref() == Some(arch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_tree_names_its_board() {
        for (compatible, board) in [
            ("nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0", Some("orin-nano")),
            ("nvidia,p3509-0000+p3767-0000\0nvidia,tegra234\0", Some("orin-nx-16")),
            ("nvidia,p3737-0000+p3701-0000\0nvidia,p3701-0000\0nvidia,tegra234\0", Some("agx-orin-32")),
            ("nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0", Some("agx-orin-64")),
            ("nvidia,p4071-0000+p3834-0008\0nvidia,tegra264\0", Some("thor-t5000")),
            ("radxa,rock-5b\0rockchip,rk3588\0", Some("rk3588")),
            ("xunlong,orangepi-5\0rockchip,rk3588s\0", Some("rk3588")),
            ("radxa,rock-4d\0rockchip,rk3576\0", Some("rk3576")),
            ("raspberrypi,5-model-b\0brcm,bcm2712\0", Some("pi5")),
            ("raspberrypi,4-model-b\0brcm,bcm2711\0", None),
            ("nvidia,p3768-0000+p3767-0004\0nvidia,tegra234\0", None),
            ("rockchip,rk3588x\0", None),
            ("", None),
            ("\0\0\0", None),
        ] {
            let found = from_device_tree(compatible.as_bytes()).map(|b| b.name.as_str());
            assert_eq!(found, board, "{compatible:?}");
        }
        let after_noise = from_device_tree(b"\xff\xfe\0rockchip,rk3576");
        assert_eq!(after_noise.map(|b| b.name.as_str()), Some("rk3576"));
    }

    #[test]
    fn an_unknown_machine_is_its_architecture() {
        let nowhere = detect(Path::new("/nonexistent"));
        assert_eq!(nowhere.cpu.arch, std::env::consts::ARCH);
        for (arch, name) in [("aarch64", Some("generic-arm64")), ("x86_64", Some("x86-64")), ("vax", None)] {
            assert_eq!(fallback(arch).map(|b| b.name.as_str()), name);
        }
    }
}
