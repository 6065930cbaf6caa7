use std::fs;
use std::path::Path;

use crate::files::number;

/// The file names of one generation of memory control groups.
struct Cgroup {
    /// How the group's line in `/proc/self/cgroup` starts, after the number.
    controller: &'static str,
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Keys of `memory.stat` that count file pages: they are given back under pressure, and a mapped model's own
    /// pages are among them.
    reclaimable: [&'static str; 2],
}

const CGROUPS: [Cgroup; 2] = [
    Cgroup {
        controller: "",
        mount: "sys/fs/cgroup",
        limit: "memory.max",
        usage: "memory.current",
        reclaimable: ["active_file", "inactive_file"],
    },
    Cgroup {
        controller: "memory",
        mount: "sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        reclaimable: ["total_active_file", "total_inactive_file"],
    },
];

/// Bytes that a process may still take without swapping: `MemAvailable` of `/proc/meminfo`, or less where a control
/// group limits this process. `root` is `/`; a folder in tests. `None` where `/proc/meminfo` cannot be read.
pub fn available_bytes(root: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let rooms = CGROUPS.iter().filter_map(|kind| kind.room(root, &groups));
    Some(rooms.fold(free, u64::min))
}

impl Cgroup {
    /// The least room that this process's group and its parents leave; `None` where nothing limits it.
    fn room(&self, root: &Path, groups: &str) -> Option<u64> {
        let path = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|c| c == self.controller).then_some(path)
        })?;
        let mount = root.join(self.mount);
        let group = mount.join(path.trim_start_matches('/'));
        // In a container the path may be the host's while the mount is the container's: the parents are there.
        let parents = group.ancestors().take_while(|folder| folder.starts_with(&mount));
        parents.filter_map(|folder| self.room_in(folder)).min()
    }

    fn room_in(&self, folder: &Path) -> Option<u64> {
        let limit = number(&folder.join(self.limit))?; // "max" is no number: no limit
        let used = number(&folder.join(self.usage)).unwrap_or(0);
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let values = stat.lines().filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            self.reclaimable.contains(&key).then(|| value.parse::<u64>().ok())?
        });
        let reclaimable = values.fold(0, u64::saturating_add);
        Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::machine;

    const GIB: u64 = 1 << 30;
    const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n";

    #[test]
    fn what_is_free_is_the_least_of_machine_and_control_groups() {
        let v1 = "4:cpu,memory:/box\n0::/\n";
        let v2 = "0::/system.slice/mused.service\n";
        let unit = "sys/fs/cgroup/system.slice/mused.service";
        let (max, current, stat) =
            (format!("{unit}/memory.max"), format!("{unit}/memory.current"), format!("{unit}/memory.stat"));
        for (case, files, expected) in [
            ("no control groups", vec![("proc/meminfo", MEMINFO)], Some(8 * GIB)),
            ("no meminfo", vec![], None),
            ("meminfo without the line", vec![("proc/meminfo", "MemTotal: 1 kB\n")], None),
            ("a number too big", vec![("proc/meminfo", "MemAvailable: 18446744073709551615 kB\n")], None),
            (
                "v2 without a limit",
                vec![("proc/meminfo", MEMINFO), ("proc/self/cgroup", v2), (&max, "max\n"), (&current, "5\n")],
                Some(8 * GIB),
            ),
            (
                "v2, file pages count as free",
                vec![
                    ("proc/meminfo", MEMINFO),
                    ("proc/self/cgroup", v2),
                    (&max, "4294967296\n"),
                    (&current, "3221225472\n"),
                    (&stat, "anon 1\nactive_file 1073741824\ninactive_file 1073741824\nfile 7\n"),
                ],
                Some(3 * GIB),
            ),
            (
                "v2, the parent is tighter",
                vec![
                    ("proc/meminfo", MEMINFO),
                    ("proc/self/cgroup", v2),
                    (&max, "4294967296\n"),
                    ("sys/fs/cgroup/system.slice/memory.max", "2147483648\n"),
                ],
                Some(2 * GIB),
            ),
            (
                "v2, over its limit already",
                vec![
                    ("proc/meminfo", MEMINFO),
                    ("proc/self/cgroup", v2),
                    (&max, "1024\n"),
                    (&current, "4096\n"),
                ],
                Some(0),
            ),
            (
                "v1",
                vec![
                    ("proc/meminfo", MEMINFO),
                    ("proc/self/cgroup", v1),
                    ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1073741824\n"),
                    ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1073741824\n"),
                    ("sys/fs/cgroup/memory/box/memory.stat", "active_file 9\ntotal_active_file 4096\n"),
                ],
                Some(4096),
            ),
            (
                "v1 in a container that sees its own group as the root",
                vec![
                    ("proc/meminfo", MEMINFO),
                    ("proc/self/cgroup", v1),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
                ],
                Some(GIB),
            ),
        ] {
            assert_eq!(available_bytes(machine(&files).path()), expected, "{case}");
        }
    }
}
