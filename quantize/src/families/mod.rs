//! One file per model family: config.json -> Spec, and which tensor becomes which.
