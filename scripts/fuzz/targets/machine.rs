//! Any files of `/proc`, `/sys` and `/etc` that a board is told by: no answer but one within bounds. Files are cut at zeros.
#![no_main]

use muse_boards::{available_bytes, detect, jetson};

const FILES: [&str; 17] = [
    "proc/meminfo",
    "proc/self/cgroup",
    "proc/device-tree/compatible",
    "sys/fs/cgroup/a/memory.max",
    "sys/fs/cgroup/a/memory.current",
    "sys/fs/cgroup/a/memory.stat",
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/cpu0/cpu_capacity",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    "etc/nv_tegra_release",
    "etc/nvpmodel.conf",
    "var/lib/nvpmodel/status",
    "sys/class/devfreq/17000000.gpu/cur_freq",
    "sys/class/devfreq/17000000.gpu/max_freq",
    "sys/class/devfreq/17000000.gpu/available_frequencies",
    "sys/class/thermal/thermal_zone0/temp",
    "sys/class/thermal/thermal_zone0/type",
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    for (path, text) in FILES.iter().zip(bytes.split(|byte| *byte == 0)) {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let root = root.path();
    let board = detect(root);
    if let Some(free) = available_bytes(root) {
        assert!(board.budget_bytes(free) <= free);
    }
    let cores = board.fast_cores(root);
    assert!(!cores.is_empty() && cores.len() <= 1 << 14);
    assert!(board.default_threads(root) >= 1);
    let _ = (jetson::release(root), jetson::power_mode(root), jetson::power_modes(root));
    let _ = jetson::gpu_clocks(root);
    assert!(jetson::heat(root).hottest.is_none_or(|(_, degrees)| degrees.is_finite()));
});
