//! `org.museproject.Inference1.Model`: what is known of one model. Properties only; `Manager` does the work.

use std::sync::Arc;

use zbus::{OwnedObjectPath, interface};

use crate::models::{Snapshot, Summary};
use crate::service::Service;

pub struct Model {
    service: Arc<Service>,
    name: String,
}

/// Where a model lives: its name, each byte that a path may not have as `_` and two hex digits.
pub fn path(name: &str) -> OwnedObjectPath {
    let escape = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
        b => format!("_{b:02x}"),
    };
    let escaped: String = name.bytes().map(escape).collect();
    OwnedObjectPath::try_from(format!("{}/models/{escaped}", crate::ROOT)).expect("escaped to a valid path")
}

impl Model {
    pub fn new(service: Arc<Service>, name: String) -> Self {
        Self { service, name }
    }

    fn snapshot(&self) -> Option<Snapshot> {
        self.service.models.get(&self.name)
    }

    fn summary(&self) -> Summary {
        self.snapshot().and_then(|s| s.summary.ok()).unwrap_or_default()
    }

    fn while_loaded<T: Default>(&self, get: impl FnOnce(muse_runtime::ModelInfo) -> T) -> T {
        self.snapshot().and_then(|s| s.loaded).map(get).unwrap_or_default()
    }
}

#[interface(name = "org.museproject.Inference1.Model")]
impl Model {
    /// The file's name without .muse; what CreateSession takes.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> &str {
        &self.name
    }

    /// Other names that CreateSession takes for this model, from the configuration.
    #[zbus(property(emits_changed_signal = "const"))]
    fn aliases(&self) -> Vec<String> {
        self.snapshot().map(|s| s.aliases).unwrap_or_default()
    }

    /// True while the model is in memory. A model is loaded when a session with it is created or answers.
    #[zbus(property)]
    fn loaded(&self) -> bool {
        self.snapshot().is_some_and(|s| s.loaded.is_some())
    }

    /// What is wrong with the file; empty for one that can be loaded.
    #[zbus(property)]
    fn problem(&self) -> String {
        self.snapshot().and_then(|s| s.summary.err()).unwrap_or_default()
    }

    /// Architecture family: llama, qwen3, gemma3.
    #[zbus(property)]
    fn family(&self) -> String {
        self.summary().family
    }

    /// Tokens that a conversation may have: of the loaded model, else of the file.
    #[zbus(property)]
    fn context(&self) -> u32 {
        match self.while_loaded(|info| info.context) {
            0 => self.summary().context,
            context => context,
        }
    }

    /// How the weights are stored, most bytes first: "q4b32, q8b32, f32".
    #[zbus(property)]
    fn layouts(&self) -> String {
        self.summary().layouts
    }

    /// Bytes of the file.
    #[zbus(property)]
    fn size_bytes(&self) -> u64 {
        self.summary().size_bytes
    }

    /// Bytes allocated beside the weights while loaded; 0 while not.
    #[zbus(property)]
    fn working_bytes(&self) -> u64 {
        self.while_loaded(|info| info.working_bytes)
    }

    /// What computes while loaded: "cpu (avx2, 4 threads)", and why not the GPU where the configuration asks for it and allows
    /// the CPU; empty while not.
    #[zbus(property)]
    fn backend(&self) -> String {
        self.while_loaded(|info| info.backend)
    }

    /// BLAKE3 of the file, in hex: the identity of this model.
    #[zbus(property)]
    fn hash(&self) -> String {
        self.summary().hash
    }

    /// Numbers of the vector that the model makes of a text; 0 for one that writes text. Embed takes the former, sessions
    /// the latter.
    #[zbus(property)]
    fn embedding_width(&self) -> u32 {
        self.summary().embedding_width
    }

    /// SPDX name of the weights' license; empty where the file does not say.
    #[zbus(property)]
    fn license(&self) -> String {
        self.summary().license
    }
}
