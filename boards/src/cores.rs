use std::fs;
use std::path::Path;

use crate::Board;
use crate::files::number;

impl Board {
    /// Kernel numbers of the cores that should work on a model, ascending; never empty. `root` is `/`; a folder in
    /// tests.
    ///
    /// The profile's big cores that are online; where it names none, one hardware thread of every core whose
    /// capacity is the highest.
    pub fn fast_cores(&self, root: &Path) -> Vec<usize> {
        let cpus = root.join("sys/devices/system/cpu");
        let online = fs::read_to_string(cpus.join("online")).ok().and_then(|text| parse_list(&text));
        let online = online.unwrap_or_else(|| {
            let count = std::thread::available_parallelism().map_or(1, usize::from);
            (0..count).collect()
        });
        let mut named = self.cpu.big_cores.clone();
        named.retain(|core| online.contains(core));
        if !named.is_empty() {
            return named;
        }
        let cores: Vec<_> = online.iter().copied().filter(|core| is_first_thread(&cpus, *core)).collect();
        let capacity = |core: usize| number(&cpus.join(format!("cpu{core}/cpu_capacity")));
        let highest = cores.iter().map(|core| capacity(*core)).max().flatten();
        let fast: Vec<_> = cores.into_iter().filter(|core| capacity(*core) == highest).collect();
        if fast.is_empty() { online } else { fast }
    }

    /// Threads to work with where nobody says: the fast cores, or fewer where this process may use fewer.
    pub fn default_threads(&self, root: &Path) -> usize {
        let allowed = std::thread::available_parallelism().map_or(1, usize::from);
        self.fast_cores(root).len().clamp(1, allowed)
    }
}

/// False for the second hardware thread of a core: both share the units that a kernel keeps busy.
fn is_first_thread(cpus: &Path, core: usize) -> bool {
    let path = cpus.join(format!("cpu{core}/topology/thread_siblings_list"));
    let siblings = fs::read_to_string(path).ok().and_then(|text| parse_list(&text));
    siblings.and_then(|list| list.first().copied()).is_none_or(|first| first == core)
}

/// The kernel's list format, `0-3,6`; `None` where it is not that, or names more cores than a machine has.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    const CORES_MAX: usize = 1 << 13; // Linux's own bound, CONFIG_NR_CPUS
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= CORES_MAX || cores.len() >= CORES_MAX {
            return None;
        }
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    cores.dedup();
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::by_name;

    fn machine(online: &str, capacities: &[u32], siblings: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let cpus = root.path().join("sys/devices/system/cpu");
        fs::create_dir_all(&cpus).unwrap();
        fs::write(cpus.join("online"), online).unwrap();
        for (core, capacity) in capacities.iter().enumerate() {
            fs::create_dir_all(cpus.join(format!("cpu{core}/topology"))).unwrap();
            fs::write(cpus.join(format!("cpu{core}/cpu_capacity")), format!("{capacity}\n")).unwrap();
        }
        for (core, list) in siblings.iter().enumerate() {
            fs::write(cpus.join(format!("cpu{core}/topology/thread_siblings_list")), list).unwrap();
        }
        root
    }

    #[test]
    fn fast_cores_come_from_the_profile_then_from_the_kernel() {
        for (case, board, online, capacities, siblings, expected) in [
            ("the profile's", "rk3588", "0-7\n", vec![], vec![], vec![4, 5, 6, 7]),
            ("one is offline", "rk3588", "0-4,6\n", vec![], vec![], vec![4, 6]),
            ("none of the named is online", "rk3588", "0-3\n", vec![9; 4], vec![], vec![0, 1, 2, 3]),
            ("highest capacity", "generic-arm64", "0-3\n", vec![446, 446, 1024, 1024], vec![], vec![2, 3]),
            (
                "one thread a core",
                "x86-64",
                "0-3\n",
                vec![1024; 4],
                vec!["0,2", "1,3", "0,2", "1,3"],
                vec![0, 1],
            ),
            ("the kernel says nothing more", "x86-64", "0-1\n", vec![], vec![], vec![0, 1]),
        ] {
            let root = machine(online, &capacities, &siblings);
            assert_eq!(by_name(board).unwrap().fast_cores(root.path()), expected, "{case}");
        }
    }

    #[test]
    fn there_is_always_a_core_to_work_on() {
        let board = by_name("generic-arm64").unwrap();
        for root in [Path::new("/nonexistent"), Path::new("/")] {
            assert!(!board.fast_cores(root).is_empty());
            let threads = board.default_threads(root);
            assert!((1..=std::thread::available_parallelism().unwrap().get()).contains(&threads));
        }
    }

    #[test]
    fn core_lists_are_read_or_refused() {
        for (text, expected) in [
            ("0-3,6\n", Some(vec![0, 1, 2, 3, 6])),
            ("5", Some(vec![5])),
            ("2,0-1,1", Some(vec![0, 1, 2])),
            ("", None),
            ("3-1", None),
            ("0-", None),
            ("a", None),
            ("0-18446744073709551615", None),
            ("-1", None),
        ] {
            assert_eq!(parse_list(text), expected, "{text:?}");
        }
    }
}
