//! The loop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::EmbedEnd;
use super::answer::{Answer, End};
use super::resident::{Broken, Resident};
use super::state::{Command, Shared};

pub(super) struct Service {
    shared: Arc<Shared>,
    models: Vec<Resident>,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, models: Vec::new() }
    }

    pub(super) fn run(mut self) {
        // Whatever happens below, nobody is left waiting for a loop that is gone.
        let _ended = Ended(Arc::clone(&self.shared));
        while let Some(commands) =
            self.shared.next(self.models.iter().any(|model| model.priority().is_some()))
        {
            for command in commands {
                self.apply(command);
            }
            self.turn();
        }
        let left = self.shared.end();
        for mut model in std::mem::take(&mut self.models) {
            model.fail_all(STOPPING);
            discard(model);
        }
        for command in left {
            match command {
                Command::Answer { answer, .. } => fail(*answer, STOPPING),
                Command::Embed { job, .. } => (job.sink)(EmbedEnd::Failed(STOPPING.to_owned())),
                other => discard(other),
            }
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Add { key, name, engine } => {
                tracing::info!(model = name, "model added");
                self.models.push(Resident::new(key, name, engine, Arc::clone(&self.shared)));
            }
            Command::Remove { key } => self.remove(key, "the model was unloaded"),
            Command::Answer { key, answer } => match self.model(key) {
                Some(model) => model.push(*answer),
                None => fail(*answer, "the model was unloaded"),
            },
            Command::Embed { key, job } => match self.model(key) {
                Some(model) => model.push_texts(*job),
                None => (job.sink)(EmbedEnd::Failed("the model was unloaded".to_owned())),
            },
            Command::Close { key, session } => {
                if let Some(model) = self.model(key) {
                    model.close(session);
                }
            }
        }
    }

    /// One turn of each model. Background answers rest while any model has interactive ones: the models share the
    /// machine.
    fn turn(&mut self) {
        let Some(urgent) = self.models.iter().filter_map(Resident::priority).max() else { return };
        let turns = self.models.iter_mut().map(|model| (model.turn(urgent), model.key));
        let broken: Vec<_> = turns.filter_map(|(turn, key)| Some((key, turn.err()?))).collect();
        for (key, broken) in broken {
            let what = match broken {
                Broken::Panicked => "crashed".to_owned(),
                Broken::Failed(problem) => format!("failed ({problem})"),
            };
            let name = self.model(key).map(|model| model.name.clone()).expect("it had its turn");
            tracing::error!(model = name, "the model {what} and is removed");
            self.shared.locked(|state| state.forget_key(key));
            self.remove(key, &format!("the model {what} and was unloaded; the next request loads it again"));
        }
    }

    fn remove(&mut self, key: u64, message: &str) {
        let Some(at) = self.models.iter().position(|model| model.key == key) else { return };
        let mut model = self.models.remove(at);
        model.fail_all(message);
        tracing::info!(model = model.name, "model removed");
        discard(model);
    }

    fn model(&mut self, key: u64) -> Option<&mut Resident> {
        self.models.iter_mut().find(|model| model.key == key)
    }
}

const STOPPING: &str = "the service is shutting down";

/// Ends an answer that no model has; its session is gone with its model.
fn fail(mut answer: Answer, message: &str) {
    answer.end(End::Failed(message.to_owned()));
}

/// An engine that panicked may panic again when it is dropped.
fn discard<T>(value: T) {
    if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
        tracing::error!("an engine panicked while it was freed");
    }
}

struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.end());
        self.0.ended();
    }
}
