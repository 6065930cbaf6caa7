//! `org.museproject.Inference1.Session`: one conversation. Translation only.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use muse_runtime::Prompt;
use zbus::message::Header;
use zbus::{Connection, ObjectServer, OwnedObjectPath, interface};

use super::client_of;
use super::error::Error;
use super::options::{Keys, bounded_texts, has_files, messages};
use super::wire::{Conversation, Options};
use crate::service::{self, Answer, Service};
use crate::stream::{self, End};

/// Bytes of frames that the kernel holds for a reader, about; the queue behind it is `stream_frames` long.
const SEND_BUFFER: usize = 32 * 1024;

pub struct Session {
    service: Arc<Service>,
    session: Arc<service::Session>,
}

/// Where a session lives.
pub fn path(id: u64) -> OwnedObjectPath {
    OwnedObjectPath::try_from(format!("{}/sessions/{id}", crate::ROOT)).expect("digits make a valid path")
}

/// Makes `session` an object of the bus.
pub async fn publish(
    server: &ObjectServer,
    service: Arc<Service>,
    session: Arc<service::Session>,
) -> Result<OwnedObjectPath, Error> {
    let path = path(session.id);
    server.at(path.clone(), Session { service, session }).await?;
    Ok(path)
}

/// Ends a session and takes its object off the bus. Ending one that has ended is success.
pub async fn end(server: &ObjectServer, service: &Service, session: &service::Session) {
    service.close(session).await;
    // Somebody else may have removed it in between.
    let _ = server.remove::<Session, _>(path(session.id)).await;
}

#[interface(name = "org.museproject.Inference1.Session")]
impl Session {
    /// Answers a conversation.
    ///
    /// messages: the whole conversation so far, oldest first, each {"role": s, "content": s} with role system, user,
    /// assistant or tool. What this session has read before is not computed again (cached_tokens).
    /// An assistant's message may have reasoning s and tool_calls s (JSON, an array of {"id","name","arguments"} as in
    /// tool_call frames); with tool_calls it needs no content. The result of a call is a message of role tool with
    /// tool_call_id s and name s, those of the call. A user's message may have images ah, file descriptors of PNG, JPEG or
    /// WebP files (a memfd will do), which stand in front of its text, and behind them videos a(hatd): of each a file
    /// descriptor, of a file that has the video's frames one behind the other, each a PNG, JPEG or WebP and all of one size;
    /// the bytes of each frame; and how many there are a second. Behind those it may have audio ah, WAV or FLAC files. What a
    /// model does not take is an error, and so are more than 64 descriptors of one call.
    ///
    /// options: max_tokens u, temperature d (0 is greedy), top_p d, top_k u, min_p d, repetition_penalty d, seed t,
    /// stop as (ends the text, not the reasoning), mode s (instant, thinking, contemplating: how hard a model thinks that
    /// can), priority s (interactive, background), tools s (JSON, an array of {"type":"function","function":{"name",
    /// "description","parameters"}} with a JSON schema as parameters), json_schema s (the text is JSON of this schema, laid
    /// out as {"a": 1, "b": [2, 3]}; a schema that says what is not supported is an error; not with tools; max_tokens
    /// may cut it off), speculation b (default true: tokens that repeat
    /// the conversation, or that the model's drafter proposes, may be computed several in one step, which changes the speed
    /// and not the answer). An option that is not known is an error.
    ///
    /// stream: one end of a socket. Frames are lines of JSON: {"event":"start"}, any number of
    /// {"event":"delta","text":s}, {"event":"reasoning","text":s} (what the model thinks, not part of the answer) and
    /// {"event":"tool_call","id":s,"name":s,"arguments":{}}, then
    /// {"event":"done","finish_reason":"stop|length|tool_call|cancelled","usage":{},"timing":{}}
    /// or {"event":"error","name":s,"message":s}. End of file without either means failure. Closing it cancels.
    /// A tool_call frame is a whole call of one of the tools, its arguments of the types that the schema names; what
    /// is not is text. finish_reason tool_call: the model waits for the results of its calls.
    /// usage: prompt_tokens, cached_tokens, completion_tokens, proposed_tokens (computed because a repetition was
    /// expected or the drafter proposed them), accepted_tokens (of those, part of the answer). timing: queued_ms, first_token_ms, total_ms.
    /// A reader that falls too far behind gets an error frame; the service never waits for it.
    #[zbus(out_args("stream"))]
    async fn respond(
        &self,
        #[zbus(header)] header: Header<'_>,
        messages: Conversation,
        options: Options,
    ) -> Result<zbus::OwnedFd, Error> {
        self.refuse_others(&header)?;
        let limits = &self.service.config.limits;
        let mut keys = Keys::new(options);
        let generate = keys.generate(limits)?;
        keys.finish()?;
        bounded_texts(&messages, limits)?;
        let _asking = self.session.ask()?;
        let room = match has_files(&messages) {
            true => Some(self.service.room_for_files(&self.session).await?),
            false => None,
        };
        // Reading files takes a while, and a file may be on a slow disk.
        let service = self.service.clone();
        let read = tokio::task::spawn_blocking(move || self::messages(messages, &service.config.limits));
        let messages = read.await.map_err(|panic| Error::Failed(panic.to_string()))??;
        let prompt = Prompt::Chat(messages);
        let answer = self.service.respond(&self.session, prompt, generate, room).await?;
        let fd = match self.stream(answer).await {
            Ok(fd) => fd,
            Err(problem) => {
                self.service.cancel(&self.session).await;
                return Err(service::Error::Stream(problem).into());
            }
        };
        Ok(fd.into())
    }

    /// Ends the answer under way: its last frame has finish_reason cancelled. Success where there is none. A Respond whose
    /// text is being read fails with Cancelled, and with SessionClosed at a Close; one before that, as while its model is
    /// loaded, goes on.
    async fn cancel(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        self.refuse_others(&header)?;
        self.service.cancel(&self.session).await;
        Ok(())
    }

    /// Ends the session and removes this object. A client that leaves the bus closes its sessions.
    async fn close(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        self.refuse_others(&header)?;
        end(connection.object_server(), &self.service, &self.session).await;
        Ok(())
    }

    /// Name of the model that answers.
    #[zbus(property(emits_changed_signal = "const"))]
    fn model(&self) -> &str {
        &self.session.model
    }
}

impl Session {
    fn refuse_others(&self, header: &Header<'_>) -> Result<(), Error> {
        if client_of(header) == self.session.client {
            return Ok(());
        }
        Err(Error::NotYourSession(
            "this session belongs to another client; open one with CreateSession".into(),
        ))
    }

    /// Starts sending `answer`; returns the reader's end.
    async fn stream(&self, mut answer: Answer) -> std::io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, SEND_BUFFER)?;
        ours.set_nonblocking(true)?;
        let ours = tokio::net::UnixStream::from_std(ours)?;
        let service = self.service.clone();
        self.service.spawn_stream(async move {
            let stall = service.config.limits.stream_stall();
            if stream::pump(ours, &mut answer.events, stall).await == End::Abandoned {
                service.cancel_answer(&answer).await;
            }
        });
        Ok(theirs.into())
    }
}
