//! An answer on its way to a reader: a bounded queue out of the scheduler, frames into a socket.
//!
//! The scheduler's side never waits. A reader that does not keep up loses its answer, nobody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muse_runtime::{Event, FinishReason, Sink, SinkClosed};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;

use crate::bus::error::name;

/// The reading end of an answer's queue.
pub struct Events {
    queue: mpsc::Receiver<Event>,
    overflowed: Arc<AtomicBool>,
}

/// A queue of `frames` events. The sink refuses the one after.
pub fn channel(frames: usize) -> (Sink, Events) {
    let (sender, queue) = mpsc::channel(frames);
    let overflowed = Arc::new(AtomicBool::new(false));
    let full = overflowed.clone();
    let sink = move |event| {
        sender.try_send(event).map_err(|error| {
            full.fetch_or(matches!(error, mpsc::error::TrySendError::Full(_)), Ordering::Relaxed);
            SinkClosed
        })
    };
    (Box::new(sink), Events { queue, overflowed })
}

impl Events {
    /// The next event; `None` once the scheduler has let go of the answer.
    pub async fn next(&mut self) -> Option<Event> {
        self.queue.recv().await
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its last frame is written.
    Complete,
    /// The reader is gone, or took nothing for too long: the answer is of no use to anyone.
    Abandoned,
}

/// Writes frames to `socket` until the answer ends or its reader goes.
pub async fn pump(socket: UnixStream, events: &mut Events, stall: Duration) -> End {
    let (mut hangup, mut socket) = socket.into_split();
    let closed = closed(&mut hangup);
    tokio::pin!(closed);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = &mut closed => return End::Abandoned,
        };
        let last = matches!(event, None | Some(Event::Done { .. } | Event::Error { .. }));
        let frame = event.as_ref().map_or_else(|| lost(events), frame);
        let written = tokio::select! {
            written = tokio::time::timeout(stall, socket.write_all(frame.as_bytes())) => written,
            () = &mut closed => return End::Abandoned,
        };
        if !matches!(written, Ok(Ok(()))) {
            return End::Abandoned;
        }
        if last {
            return End::Complete;
        }
    }
}

/// Resolves when the reader closes its end. Frames flow one way: a reader that writes is closed as well.
async fn closed(hangup: &mut OwnedReadHalf) {
    // End of file, an error and data mean the same.
    let _ = hangup.read(&mut [0]).await;
}

/// The last frame where the scheduler sent none.
fn lost(events: &Events) -> String {
    if events.overflowed.load(Ordering::Relaxed) {
        let frames = events.queue.max_capacity();
        let message =
            format!("the reader was {frames} frames behind, the most this service keeps; read faster");
        error_frame(&name("SlowReader"), &message)
    } else {
        error_frame(&name("Failed"), "the answer ended without a reason; see the service's log")
    }
}

fn error_frame(name: &str, message: &str) -> String {
    line(&json!({"event": "error", "name": name, "message": message}))
}

fn line(value: &serde_json::Value) -> String {
    format!("{value}\n")
}

/// The wire's word for each reason.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::ToolCall => "tool_call",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}

/// Milliseconds, to a microsecond.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// One event as a line of JSON.
fn frame(event: &Event) -> String {
    match event {
        Event::Start { prompt_tokens, cached_tokens } => {
            line(&json!({"event": "start", "prompt_tokens": prompt_tokens, "cached_tokens": cached_tokens}))
        }
        Event::Delta { text } => line(&json!({"event": "delta", "text": text})),
        Event::Reasoning { text } => line(&json!({"event": "reasoning", "text": text})),
        Event::ToolCall { id, name, arguments } => {
            line(&json!({"event": "tool_call", "id": id, "name": name, "arguments": arguments}))
        }
        Event::Done { finish_reason: reason, usage, timing } => line(&json!({
            "event": "done",
            "finish_reason": finish_reason(*reason),
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
                "proposed_tokens": usage.proposed_tokens,
                "accepted_tokens": usage.accepted_tokens,
            },
            "timing": {
                "queued_ms": milliseconds(timing.queued),
                "first_token_ms": milliseconds(timing.first_token),
                "total_ms": milliseconds(timing.total),
            },
        })),
        Event::Error { message } => error_frame(&name("Failed"), message),
    }
}
