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

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::share;

    #[test]
    fn rows_go_round() {
        assert_eq!(share(8, &[1, 20]), [1, 7]);
        assert_eq!(share(8, &[20, 20, 1]), [4, 3, 1]);
        assert_eq!(share(2, &[1, 1, 1]), [1, 1, 0]);
        assert_eq!(share(100, &[3, 4]), [3, 4]);
        assert!(share(1, &[]).is_empty());
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
