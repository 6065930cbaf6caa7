use crate::Board;

/// A model does not fit the board.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model needs {} and board {board} may give it {} ({percent} % of the {} that are free): convert it with \
     fewer bits (muse-quantize convert --bits 4), ask for a shorter context or fewer slots, or take a smaller model",
    gib(*.needed), gib(*.budget), gib(*.available)
)]
pub struct BudgetError {
    pub board: String,
    /// Bytes of weights and working memory.
    pub needed: u64,
    /// Bytes a model may take.
    pub budget: u64,
    /// Bytes that were free.
    pub available: u64,
    pub percent: u8,
}

fn gib(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < 1 << 30 {
        return format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB);
    }
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

impl Board {
    /// Bytes that a model may take of `available` free bytes.
    pub fn budget_bytes(&self, available: u64) -> u64 {
        let percent = u64::from(self.memory.budget_percent);
        // The quotient first: `available * percent` can overflow.
        available / 100 * percent + available % 100 * percent / 100
    }

    /// Refuses a model of `needed` bytes, weights and working memory, where `available` bytes are free. For a board
    /// that is not this machine, `available` is [`Memory::bytes`](crate::Memory::bytes).
    ///
    /// # Errors
    /// [`BudgetError`] with the numbers and what to do.
    pub fn check_budget(&self, needed: u64, available: u64) -> Result<(), BudgetError> {
        let budget = self.budget_bytes(available);
        if needed <= budget {
            return Ok(());
        }
        let percent = self.memory.budget_percent;
        Err(BudgetError { board: self.name.clone(), needed, budget, available, percent })
    }
}

#[cfg(test)]
mod tests {
    use crate::by_name;

    #[test]
    fn a_model_fits_up_to_the_budget_and_not_a_byte_more() {
        let board = by_name("orin-nano").unwrap();
        assert_eq!(board.budget_bytes(8_000_000_000), 5_600_000_000);
        assert_eq!(board.check_budget(5_600_000_000, 8_000_000_000), Ok(()));
        let error = board.check_budget(5_600_000_001, 8_000_000_000).unwrap_err();
        assert_eq!((error.needed, error.budget), (5_600_000_001, 5_600_000_000));
    }

    #[test]
    fn the_refusal_tells_the_numbers_and_the_remedy() {
        let error = by_name("orin-nano").unwrap().check_budget(16 << 30, 8 << 30).unwrap_err().to_string();
        for part in ["16.00 GiB", "orin-nano", "5.60 GiB", "70 %", "8.00 GiB", "--bits 4"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn no_amount_of_memory_overflows() {
        let board = by_name("x86-64").unwrap();
        assert_eq!(board.budget_bytes(0), 0);
        assert_eq!(board.budget_bytes(3), 2);
        assert_eq!(board.budget_bytes(u64::MAX), u64::MAX / 4 * 3 + 2);
        assert!(board.check_budget(u64::MAX, u64::MAX).is_err());
    }
}
