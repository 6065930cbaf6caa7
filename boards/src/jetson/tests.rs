use super::*;
use crate::files::machine;

type Files = &'static [(&'static str, &'static str)];

const AGX_ORIN: Files = &[
    (
        "etc/nv_tegra_release",
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n\
         # KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
    ),
    ("var/lib/nvpmodel/status", "pmode:0002 fmode:fanNull\n"),
    (
        "etc/nvpmodel.conf",
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n\n\
         # MAXN is the NONE power model to release all constraints\n< POWER_MODEL ID=0 NAME=MAXN >\nGPU MAX_FREQ -1\n\n\
         < POWER_MODEL ID=1 NAME=MODE_15W >\n< POWER_MODEL ID=2 NAME=MODE_30W >\nGPU MAX_FREQ 612000000\n\
         < POWER_MODEL ID=3 NAME=MODE_50W >\n\n< PM_CONFIG DEFAULT=2 >\n",
    ),
    ("sys/class/devfreq/17000000.gpu/cur_freq", "306000000\n"),
    ("sys/class/devfreq/17000000.gpu/max_freq", "612000000\n"),
    ("sys/class/devfreq/17000000.gpu/available_frequencies", "306000000 612000000 1300500000\n"),
    ("sys/class/devfreq/15340000.vic/cur_freq", "115200000\n"),
    ("sys/class/devfreq/15340000.vic/max_freq", "729600000\n"),
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
    ("sys/class/thermal/thermal_zone0/temp", "48562\n"),
    ("sys/class/thermal/thermal_zone8/type", "tj-thermal\n"),
    ("sys/class/thermal/thermal_zone8/temp", "49125\n"),
    ("sys/class/thermal/thermal_zone2/type", "cv0-thermal\n"),
    ("sys/class/thermal/cooling_device0/type", "pwm-fan\n"),
    ("sys/class/thermal/cooling_device0/cur_state", "2\n"),
    ("sys/class/thermal/cooling_device1/type", "gpu-throttle-alert\n"),
    ("sys/class/thermal/cooling_device1/cur_state", "0\n"),
];

const ORIN_NANO_SUPER: Files = &[
    (
        "etc/nv_tegra_release",
        "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64\n",
    ),
    ("var/lib/nvpmodel/status", "pmode:0002\n"),
    (
        "etc/nvpmodel.conf",
        "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n\
         < POWER_MODEL ID=3 NAME=7W >\n< PM_CONFIG DEFAULT=1 >\n",
    ),
    ("sys/class/devfreq/17000000.gpu/cur_freq", "1020000000\n"),
    ("sys/class/devfreq/17000000.gpu/max_freq", "1020000000\n"),
    ("sys/class/devfreq/17000000.gpu/available_frequencies", "306000000 1020000000\n"),
    ("sys/class/thermal/thermal_zone1/type", "gpu-thermal\n"),
    ("sys/class/thermal/thermal_zone1/temp", "97500\n"),
    ("sys/class/thermal/cooling_device3/type", "gpu-throttle-alert\n"),
    ("sys/class/thermal/cooling_device3/cur_state", "1\n"),
    ("sys/class/thermal/cooling_device4/type", "hot-surface-alert\n"),
    ("sys/class/thermal/cooling_device4/cur_state", "1\n"),
];

const THOR: Files = &[
    (
        "etc/nv_tegra_release",
        "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, DATE: Thu Sep 25 22:47:11 UTC 2025\n",
    ),
    ("var/lib/nvpmodel/status", "pmode:0000\n"),
    ("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n"),
    ("sys/class/devfreq/gpu-gpc-0/cur_freq", "315000000\n"),
    ("sys/class/devfreq/gpu-gpc-0/max_freq", "1575000000\n"),
    ("sys/class/devfreq/gpu-nvd-0/cur_freq", "315000000\n"),
    ("sys/class/devfreq/gpu-nvd-0/max_freq", "1692000000\n"),
    ("sys/class/thermal/thermal_zone0/type", "tj-thermal\n"),
    ("sys/class/thermal/thermal_zone0/temp", "41250\n"),
    ("sys/class/thermal/cooling_device12/type", "devfreq-gpu-gpc-0\n"),
    ("sys/class/thermal/cooling_device12/cur_state", "18\n"),
];

#[test]
fn boards_say_what_they_are() {
    let mode = |id, name: &str| Some(PowerMode { id, name: Some(name.into()) });
    let clock = |name: &str, now, allowed, most| vec![Clock { name: name.into(), now, allowed, most }];
    let heat_of = |zone: &str, degrees, alerts: &[&str]| Heat {
        hottest: Some((zone.into(), degrees)),
        alerts: alerts.iter().map(|alert| (*alert).into()).collect(),
    };
    let mhz = 1_000_000;
    for (files, said, power, clocks, warm) in [
        (
            AGX_ORIN,
            "Jetson Linux 36.4.3 (JetPack 6)",
            mode(2, "MODE_30W"),
            clock("17000000.gpu", 306 * mhz, 612 * mhz, 1_300_500_000),
            heat_of("tj-thermal", 49.125, &[]),
        ),
        (
            ORIN_NANO_SUPER,
            "Jetson Linux 36.4.7 (JetPack 6)",
            mode(2, "MAXN_SUPER"),
            clock("17000000.gpu", 1020 * mhz, 1020 * mhz, 1020 * mhz),
            heat_of("gpu-thermal", 97.5, &["gpu-throttle-alert", "hot-surface-alert"]),
        ),
        (
            THOR,
            "Jetson Linux 38.2.2 (JetPack 7.0 or 7.1)",
            mode(0, "MAXN"),
            clock("gpu-gpc-0", 315 * mhz, 1575 * mhz, 1575 * mhz),
            heat_of("tj-thermal", 41.25, &[]),
        ),
    ] {
        let root = machine(files);
        let root = root.path();
        assert_eq!(release(root).unwrap().to_string(), said);
        assert_eq!(power_mode(root), power, "{said}");
        assert_eq!(gpu_clocks(root), clocks, "{said}");
        assert_eq!(heat(root), warm, "{said}");
    }
}

#[test]
fn what_is_missing_or_damaged_is_not_guessed() {
    let empty = machine(&[]);
    let root = empty.path();
    assert_eq!((release(root), power_mode(root)), (None, None));
    assert_eq!((power_modes(root), gpu_clocks(root), heat(root)), (vec![], vec![], Heat::default()));
    for line in [
        "",
        "# R36",
        "# R36 (release)",
        "# R (release), REVISION: 4.3",
        "# R36 (release), REVISION: ",
        "# R36 (release), REVISION: 4..3",
        "# R99999999999 (release), REVISION: 4.3",
        "# R36 (release), GCID: 4, REVISION: 4.3",
        "\n# R36 (release), REVISION: 4.3",
    ] {
        assert_eq!(release(machine(&[("etc/nv_tegra_release", line)]).path()), None, "{line:?}");
    }
    let unknown = machine(&[("etc/nv_tegra_release", "# R41 (release), REVISION: 1.0\n")]);
    assert_eq!(release(unknown.path()).unwrap().to_string(), "Jetson Linux 41.1.0");
    for (status, expected) in [
        ("", None),
        ("pmode:", None),
        ("pmode:-1", None),
        ("pmode:99999999999", None),
        ("mode:0001", None),
        ("pmode:0009", Some(PowerMode { id: 9, name: None })),
    ] {
        let files =
            [("var/lib/nvpmodel/status", status), ("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >")];
        assert_eq!(power_mode(machine(&files).path()), expected, "{status:?}");
    }
    let conf = "< POWER_MODEL NAME=A >\n< POWER_MODEL ID=x NAME=A >\n POWER_MODEL ID=1 NAME=A\n< POWER_MODEL ID=4 >\n<>\n";
    let modes = power_modes(machine(&[("etc/nvpmodel.conf", conf)]).path());
    assert_eq!(modes, [PowerMode { id: 4, name: None }]);
    let torn = machine(&[
        ("sys/class/devfreq/1.gpu/max_freq", "many\n"),
        ("sys/class/devfreq/2.gpu/max_freq", "5\n"),
        ("sys/class/thermal/thermal_zone0/temp", "1\n"),
        ("sys/class/thermal/thermal_zone1/type", "tj-thermal\n"),
        ("sys/class/thermal/thermal_zone1/temp", "hot\n"),
        ("sys/class/thermal/cooling_device0/type", "gpu-throttle-alert\n"),
        ("sys/class/thermal/cooling_device0/cur_state", "on\n"),
    ]);
    assert_eq!((gpu_clocks(torn.path()), heat(torn.path())), (vec![], Heat::default()));
}
