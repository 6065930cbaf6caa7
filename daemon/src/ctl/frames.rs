//! The reading end of an answer.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;

use super::Error;

/// One line of the stream.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Frame {
    Delta {
        text: String,
    },
    Reasoning {
        text: String,
    },
    ToolCall(ToolCall),
    Done(Done),
    Error {
        name: String,
        message: String,
    },
    /// `start`, and what later versions add.
    #[serde(other)]
    Other,
}

/// A tool that the model wants called.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

/// The last frame of a complete answer.
#[derive(Debug, Deserialize, Serialize)]
pub struct Done {
    pub finish_reason: String,
    pub usage: Usage,
    pub timing: Timing,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub completion_tokens: u32,
    pub proposed_tokens: u32,
    pub accepted_tokens: u32,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct Timing {
    pub queued_ms: f64,
    pub first_token_ms: f64,
    pub total_ms: f64,
}

pub struct Frames {
    lines: Lines<BufReader<UnixStream>>,
}

impl Frames {
    pub fn new(fd: zbus::OwnedFd) -> Result<Self, Error> {
        let socket = std::os::unix::net::UnixStream::from(OwnedFd::from(fd));
        socket.set_nonblocking(true)?;
        Ok(Self { lines: BufReader::new(UnixStream::from_std(socket)?).lines() })
    }

    /// The next frame. The end of the file before a last frame is an error.
    pub async fn next(&mut self) -> Result<Frame, Error> {
        let line = self.lines.next_line().await?.ok_or(Error::BrokenOff)?;
        Ok(serde_json::from_str(&line)?)
    }
}
