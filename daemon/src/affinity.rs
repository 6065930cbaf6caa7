//! Keeps the service on the cores that are worth waiting for: a step is as late as its slowest thread.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Restricts this thread, and the threads it starts from now on, to the `fast` cores, as kernel numbers, if they are
/// enough for `threads`. What the unit's `CPUAffinity=` or a cgroup already excludes stays excluded. A system that
/// refuses is logged and no obstacle.
pub fn prefer(fast: &[usize], threads: usize) {
    let allowed = sched_getaffinity(None);
    let chosen = allowed.map(|allowed| choose(fast, threads, |core| allowed.is_set(core)));
    let result = chosen.and_then(|chosen| {
        let Some(chosen) = chosen else { return Ok(()) };
        let mut set = CpuSet::new();
        chosen.into_iter().for_each(|core| set.set(core));
        sched_setaffinity(None, &set)
    });
    if let Err(problem) = result {
        tracing::warn!(%problem, cores = ?fast, "cannot keep to the fast cores");
    }
}

/// The fast cores that are `allowed`, where they are enough for `threads`.
fn choose(fast: &[usize], threads: usize, allowed: impl Fn(usize) -> bool) -> Option<Vec<usize>> {
    let known = |core: &usize| *core < CpuSet::MAX_CPU && allowed(*core);
    let chosen: Vec<_> = fast.iter().copied().filter(known).collect();
    (threads > 0 && threads <= chosen.len()).then_some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_cores_are_kept_to_where_they_are_allowed_and_enough() {
        let big = [4, 5, 6, 7];
        assert_eq!(choose(&big, 4, |_| true), Some(big.to_vec()));
        assert_eq!(choose(&big, 2, |core| core != 5), Some(vec![4, 6, 7]));
        assert_eq!(choose(&big, 4, |core| core != 5), None, "a fourth thread needs another core");
        assert_eq!(choose(&big, 6, |_| true), None);
        assert_eq!(choose(&[CpuSet::MAX_CPU], 1, |_| true), None, "a core that a mask cannot name");
    }

    #[test]
    fn threads_started_later_inherit_the_cores() {
        let inherited = std::thread::spawn(|| {
            let allowed = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).unwrap();
            prefer(&[first], 1);
            let inherited = std::thread::spawn(|| sched_getaffinity(None).unwrap()).join().unwrap();
            (first, (0..CpuSet::MAX_CPU).filter(|core| inherited.is_set(*core)).collect::<Vec<_>>())
        });
        let (first, inherited) = inherited.join().unwrap();
        assert_eq!(inherited, [first]);
    }
}
