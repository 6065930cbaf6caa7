use std::marker::PhantomData;

/// An output that several threads write, each its own elements.
pub(crate) struct Output<'a, T> {
    first: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `slice`, whose callers promise that no two of them hold the same element.
unsafe impl<T: Send> Sync for Output<'_, T> {}
// SAFETY: as for `Sync`; the pointer itself belongs to no thread.
unsafe impl<T: Send> Send for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self { first: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// Elements `at..at + len`.
    ///
    /// # Safety
    /// While the slice lives, no other slice of this output holds any of these elements.
    ///
    /// # Panics
    /// If the range is outside the output.
    #[allow(clippy::mut_from_ref)] // that is the point; the contract above makes it sound
    pub(crate) unsafe fn slice(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "{at} + {len} of {}", self.len);
        // SAFETY: inside the borrowed slice by the assertion; not aliased by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(at), len) }
    }
}
