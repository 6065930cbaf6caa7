//! How one batch is divided.

/// Gives each of `wants`, all at least 1, a share of `budget` rows: nobody gets more than it wants, and nobody gets
/// less than another gets unless it wants no more (max-min fairness). What does not divide goes to the front.
///
/// A decoding answer wants one row and so always gets it while the budget covers everybody; a long prompt gets what
/// shorter ones leave.
pub(super) fn share(budget: u32, wants: &[u32]) -> Vec<u32> {
    let mut given = vec![0; wants.len()];
    let mut left = budget;
    while left > 0 {
        let open = (given.iter().zip(wants)).filter(|(given, want)| given < want).count() as u32;
        if open == 0 {
            break;
        }
        let each = (left / open).max(1);
        for (given, want) in given.iter_mut().zip(wants) {
            let more = each.min(want - *given).min(left);
            *given += more;
            left -= more;
        }
    }
    given
}

/// [`share`] among those of whom each can do with no less than its share of `least`, which the budget covers for any one:
/// the first of whom there is no room for that wait.
pub(super) fn share_whole(budget: u32, least: &[u32], wants: &[u32]) -> Vec<u32> {
    if least.iter().all(|least| *least == 1) {
        return share(budget, wants);
    }
    let mut left = budget;
    let mut given: Vec<u32> = Vec::with_capacity(wants.len());
    for least in least {
        let own = if *least <= left { *least } else { 0 };
        left -= own;
        given.push(own);
    }
    let more: Vec<u32> =
        given.iter().zip(wants).map(|(given, want)| if *given > 0 { want - given } else { 0 }).collect();
    given.iter().zip(share(left, &more)).map(|(given, more)| given + more).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::{share, share_whole};

    #[test]
    fn rows_go_round() {
        assert_eq!(share(8, &[1, 20]), [1, 7]);
        assert_eq!(share(8, &[20, 20, 1]), [4, 3, 1]);
        assert_eq!(share(2, &[1, 1, 1]), [1, 1, 0]);
        assert_eq!(share(100, &[3, 4]), [3, 4]);
        assert!(share(1, &[]).is_empty());
    }

    #[test]
    fn who_needs_more_at_once_gets_it_or_waits() {
        assert_eq!(share_whole(8, &[1, 1], &[1, 20]), [1, 7]);
        // Of 8 rows a whole of 6 and a token, and what is left for the others.
        assert_eq!(share_whole(8, &[6, 1, 1], &[30, 1, 20]), [6, 1, 1]);
        assert_eq!(share_whole(9, &[1, 6], &[20, 6]), [3, 6]);
        // The second waits for a step in which it is the first.
        assert_eq!(share_whole(8, &[6, 5, 1], &[9, 5, 1]), [7, 0, 1]);
        assert_eq!(share_whole(8, &[5, 6], &[5, 9]), [5, 0]);
    }

    proptest! {
        #[test]
        fn shares_are_max_min_fair(budget in 1u32..600, wants in prop::collection::vec(1u32..400, 0..12)) {
            let given = share(budget, &wants);
            let total: u32 = wants.iter().sum();
            assert_eq!(given.iter().sum::<u32>(), budget.min(total), "nothing is wasted");
            for (a, want) in given.iter().zip(&wants) {
                assert!(a <= want);
                for b in &given {
                    assert!(a == want || b <= &(a + 1), "{given:?} of {wants:?}");
                }
            }
        }
    }
}
