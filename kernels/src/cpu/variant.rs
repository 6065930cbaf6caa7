use super::features::Features;

/// One way to do an operation. `F` is an unsafe function pointer or a struct of them: calling one on a CPU for which
/// `supported` is false is undefined behaviour.
pub(super) struct Variant<F: 'static> {
    pub(super) name: &'static str,
    pub(super) supported: fn(Features) -> bool,
    pub(super) run: F,
}

/// A variant that this CPU can run. Holding one is the proof: only [`all`](Self::all) makes one, after asking
/// `supported` of detected features.
pub(super) struct Supported<F: 'static>(&'static Variant<F>);

impl<F: 'static> Clone for Supported<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: 'static> Copy for Supported<F> {}

impl<F: 'static> Supported<F> {
    /// The variants of a table that can run here, best first.
    pub(super) fn all(table: &'static [Variant<F>], features: Features) -> impl Iterator<Item = Self> {
        table.iter().filter(move |variant| (variant.supported)(features)).map(Self)
    }

    pub(super) fn best(table: &'static [Variant<F>], features: Features) -> Self {
        Self::all(table, features).next().expect("the last variant of a table runs everywhere")
    }

    pub(super) fn name(self) -> &'static str {
        self.0.name
    }

    pub(super) fn get(self) -> &'static F {
        &self.0.run
    }
}
