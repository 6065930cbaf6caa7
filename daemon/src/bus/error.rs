//! The names of errors on the wire. Clients match on them: they change only with the interface.

use muse_runtime::{Refusal, TextError};
use zbus::DBusError;

use crate::service;

/// `org.museproject.Inference1.Error.<kind>`.
pub fn name(kind: &str) -> String {
    format!("{}.Error.{kind}", crate::BUS_NAME)
}

/// Each variant is a name on the wire; its text carries the numbers and the remedy.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.museproject.Inference1.Error")]
pub enum Error {
    #[zbus(error)]
    Bus(zbus::Error),
    /// No such file in the models folder, and no such alias.
    UnknownModel(String),
    /// The model's file is damaged, made for another board, or cannot be read.
    LoadFailed(String),
    /// The model needs more memory than the board's budget has left.
    OutOfMemory(String),
    /// The model is in use.
    ModelInUse(String),
    /// A key of an options dictionary that this call does not have.
    UnknownOption(String),
    /// An option's type or value.
    InvalidOption(String),
    /// A message's keys, types or role.
    InvalidMessage(String),
    /// What this model or this version cannot do: images, videos, sounds, answers of a model that embeds,
    /// vectors of one that answers.
    Unsupported(String),
    /// A count or size of the request, or the number of open sessions.
    LimitExceeded(String),
    PromptTooLong(String),
    EmptyPrompt(String),
    /// The prompt could not be rendered or encoded.
    PromptFailed(String),
    /// The session is answering already.
    Busy(String),
    /// Too many requests wait.
    QueueFull(String),
    /// The session is closed.
    SessionClosed(String),
    /// The session belongs to another client.
    NotYourSession(String),
    /// The service is stopping.
    ShuttingDown(String),
    /// The answer was cancelled, or the reading of its text.
    Cancelled(String),
    /// The engine failed.
    Failed(String),
}

impl From<service::Error> for Error {
    fn from(error: service::Error) -> Self {
        use service::Error as E;
        let text = error.to_string();
        match error {
            E::UnknownModel { .. } | E::NoDefaultModel { .. } => Self::UnknownModel(text),
            E::Load { .. } => Self::LoadFailed(text),
            E::OverBudget { .. } => Self::OutOfMemory(text),
            E::ModelInUse { .. } | E::ModelInUseByOthers { .. } => Self::ModelInUse(text),
            E::TooManySessions { .. }
            | E::TooManySessionsOfClient { .. }
            | E::TooManySessionsOfUser { .. } => Self::LimitExceeded(text),
            E::Closed => Self::SessionClosed(text),
            E::Stream(_) | E::UnknownUser { .. } => Self::Failed(text),
            E::Stopping => Self::ShuttingDown(text),
            E::Refused(refusal) => refused(&refusal, text),
        }
    }
}

fn refused(refusal: &Refusal, text: String) -> Error {
    match refusal {
        Refusal::NoSession(_) => Error::SessionClosed(text),
        Refusal::NoModel(_) => Error::UnknownModel(text),
        Refusal::Busy => Error::Busy(text),
        Refusal::Cancelled => Error::Cancelled(text),
        Refusal::QueueFull { .. } => Error::QueueFull(text),
        Refusal::TooManySessions { .. } => Error::LimitExceeded(text),
        Refusal::PromptTooLong { .. } | Refusal::TextTooLong { .. } => Error::PromptTooLong(text),
        Refusal::EmptyPrompt | Refusal::NoTexts | Refusal::EmptyText { .. } => Error::EmptyPrompt(text),
        Refusal::MakesVectors | Refusal::WritesText => Error::Unsupported(text),
        Refusal::Option { .. } | Refusal::UnknownPrompt { .. } | Refusal::Text(TextError::Schema(_)) => {
            Error::InvalidOption(text)
        }
        Refusal::Text(TextError::NoTower { .. }) => Error::Unsupported(text),
        Refusal::Image { .. } | Refusal::Video { .. } | Refusal::Sound { .. } => Error::InvalidMessage(text),
        Refusal::Text(_) => Error::PromptFailed(text),
        Refusal::ShuttingDown => Error::ShuttingDown(text),
        _ => Error::Failed(text),
    }
}
