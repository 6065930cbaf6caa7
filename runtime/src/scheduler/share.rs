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
