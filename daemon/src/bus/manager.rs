//! `org.museproject.Inference1.Manager`: sessions, models, one-call answers. Translation only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use muse_runtime::{EmbedEnd, Embedded, Event, FinishReason, Message, Prompt};
use serde_json::json;
use zbus::message::Header;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant, interface};

use super::error::Error;
use super::options::{Keys, bounded};
use super::wire::{Options, Texts};
use super::{client_of, session};
use crate::service::{self, Answer, Client, Embedding, Service, Session};
use crate::stream::{finish_reason, milliseconds};

pub struct Manager {
    pub service: Arc<Service>,
}

#[interface(name = "org.museproject.Inference1.Manager")]
impl Manager {
    /// Opens a conversation with a model, loading it where it is not loaded.
    ///
    /// model: a model's name, an alias, or "" for the default. options: none yet.
    /// session: the object to call Respond on. Only the caller may use it, and it ends when the caller leaves the bus.
    #[zbus(out_args("session"))]
    async fn create_session(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        model: &str,
        options: Options,
    ) -> Result<OwnedObjectPath, Error> {
        Keys::new(options).finish()?;
        let (client, opened) = self.open(&header, connection, model).await?;
        let path = session::publish(connection.object_server(), self.service.clone(), opened.clone()).await?;
        // A client that left while its session was made was not there to be noticed leaving.
        if !crate::clients::is_present(connection, &client).await {
            session::end(connection.object_server(), &self.service, &opened).await;
        }
        Ok(path)
    }

    /// Answers one prompt and returns when the answer is complete. For scripts:
    /// busctl call org.museproject.Inference1 /org/museproject/Inference1 org.museproject.Inference1.Manager
    /// Generate 'sa{sv}' 'What is gravity?' 1 max_tokens u 100
    ///
    /// options: those of Session.Respond, and model s (default: the default model), system s (a system message),
    /// raw b (continue the text itself, without the chat template).
    /// info: model s, finish_reason s, prompt_tokens u, cached_tokens u, completion_tokens u, proposed_tokens u,
    /// accepted_tokens u, queued_ms d, first_token_ms d, total_ms d, and where the answer has them reasoning s and
    /// tool_calls s (JSON, an array of {"id","name","arguments"}).
    /// A long answer takes longer than a D-Bus call waits by default (25 s): raise the timeout or set max_tokens.
    #[zbus(out_args("text", "info"))]
    async fn generate(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        prompt: String,
        options: Options,
    ) -> Result<(String, HashMap<String, OwnedVariant>), Error> {
        let limits = &self.service.config.limits;
        let mut keys = Keys::new(options);
        let model = keys.string("model")?.unwrap_or_default();
        let system = keys.string("system")?;
        let raw = keys.flag("raw")?;
        let generate = keys.generate(limits)?;
        keys.finish()?;
        let text_bytes = prompt.len() + system.as_ref().map_or(0, String::len);
        bounded("the prompt has", text_bytes, limits.text_bytes(), "bytes of text")?;
        let prompt = if raw { raw_prompt(prompt, system)? } else { chat_prompt(prompt, system) };

        let (client, session) = self.open(&header, connection, &model).await?;
        let answer = match crate::clients::is_present(connection, &client).await {
            true => self.service.respond(&session, prompt, generate, None).await,
            false => Err(service::Error::Closed),
        };
        let answer = match answer {
            Ok(answer) => collect(answer).await,
            Err(problem) => Err(problem.into()),
        };
        self.service.close(&session).await;
        answer
    }

    /// Makes a vector of each text, by which texts are compared, and returns when all are made. The model must be one that
    /// embeds: others fail with Unsupported, and so do Respond and Generate on one that does.
    ///
    /// model: a model's name, an alias, or "" for the default. texts: as many as a conversation may have messages.
    /// options: prompt s (the name of a text that the model knows and that goes in front of each, as "query"; the model's
    /// default where absent), truncate b (cut what is too long, which fails with PromptTooLong otherwise), priority s
    /// ("interactive", or "background", which yields to it).
    /// embeddings: a vector a text, in their order and all of one length.
    /// info: model s, tokens t (of all texts, what the tokenizer puts around each included), truncated u (texts that were
    /// cut), total_ms d.
    #[zbus(out_args("embeddings", "info"))]
    async fn embed(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        model: &str,
        texts: Texts,
        options: Options,
    ) -> Result<(Vec<Vec<f64>>, HashMap<String, OwnedVariant>), Error> {
        let began = Instant::now();
        let limits = &self.service.config.limits;
        let mut keys = Keys::new(options);
        let options = keys.embed()?;
        keys.finish()?;
        let texts = texts.0;
        bounded("the call has", texts.len(), limits.messages as usize, "texts")?;
        let bytes = texts.iter().map(String::len).sum();
        bounded("the texts have", bytes, limits.text_bytes(), "bytes")?;

        let (client, session) = self.open(&header, connection, model).await?;
        let embedding = match crate::clients::is_present(connection, &client).await {
            true => self.service.embed(&session, texts, options).await,
            false => Err(service::Error::Closed),
        };
        let made = match embedding {
            Ok(embedding) => vectors(embedding).await,
            Err(problem) => Err(problem.into()),
        };
        self.service.close(&session).await;
        let made = made?;
        let info = dictionary(vec![
            ("model", Variant::from(session.model.clone())),
            ("tokens", Variant::from(made.tokens)),
            ("truncated", Variant::from(made.truncated)),
            ("total_ms", Variant::from(milliseconds(began.elapsed()))),
        ]);
        let wide = |vector: Vec<f32>| vector.into_iter().map(f64::from).collect();
        Ok((made.vectors.into_iter().map(wide).collect(), info))
    }

    /// Loads a model now rather than at its first use. A loaded model is success.
    ///
    /// model: a model's name, an alias, or "" for the default. options: none yet.
    async fn load(&self, model: &str, options: Options) -> Result<(), Error> {
        Keys::new(options).finish()?;
        let name = self.service.models.resolve(model).await?;
        // Nothing is answered yet: it is nobody's.
        self.service.models.lease(&name, None).await?;
        Ok(())
    }

    /// Gives a model's memory back. A model that is not loaded is success.
    ///
    /// options: force b (end running answers of the caller's user with an error, and everybody's where that is root; without
    /// it, or where others' are running, a model in use stays loaded and the call fails with ModelInUse). Sessions stay
    /// open; the next answer loads the model again.
    async fn unload(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        model: &str,
        options: Options,
    ) -> Result<(), Error> {
        let mut keys = Keys::new(options);
        let force = keys.flag("force")?;
        keys.finish()?;
        let name = self.service.models.resolve(model).await?;
        let user = crate::clients::user_of(connection, &client_of(&header)).await?;
        Ok(self.service.models.unload(&name, user, force).await?)
    }

    /// The service in numbers: sessions u, clients u, answers running u and waiting u, streams u, models u,
    /// models_loaded u, loaded_bytes t, budget_bytes t (absent where there is no bound), uptime_seconds t.
    #[zbus(out_args("status"))]
    fn get_status(&self) -> HashMap<String, OwnedVariant> {
        let status = self.service.status();
        let models = self.service.models.snapshot();
        let count = |n: usize| Variant::from(u32::try_from(n).unwrap_or(u32::MAX));
        let mut numbers = vec![
            ("sessions", Variant::from(status.sessions)),
            ("clients", Variant::from(status.clients)),
            ("running", Variant::from(status.running)),
            ("waiting", Variant::from(status.waiting)),
            ("streams", Variant::from(status.streams)),
            ("models", count(models.len())),
            ("models_loaded", count(models.iter().filter(|m| m.loaded.is_some()).count())),
            ("loaded_bytes", Variant::from(status.loaded_bytes)),
            ("uptime_seconds", Variant::from(status.uptime.as_secs())),
        ];
        numbers.extend(self.service.models.budget().map(|bytes| ("budget_bytes", Variant::from(bytes))));
        dictionary(numbers)
    }

    /// Version of the service.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    /// The model that "" stands for; empty where there is none.
    #[zbus(property(emits_changed_signal = "false"))]
    fn default_model(&self) -> String {
        self.service.models.default_name()
    }
}

impl Manager {
    /// A session of who sent a call.
    async fn open(
        &self,
        header: &Header<'_>,
        connection: &Connection,
        model: &str,
    ) -> Result<(Client, Arc<Session>), Error> {
        let client = client_of(header);
        let user = crate::clients::user_of(connection, &client).await?;
        let session = self.service.open(client.clone(), user, model).await?;
        Ok((client, session))
    }
}

fn chat_prompt(prompt: String, system: Option<String>) -> Prompt {
    let system = system.map(|content| Message::new("system", content));
    Prompt::Chat(system.into_iter().chain([Message::new("user", prompt)]).collect())
}

fn raw_prompt(prompt: String, system: Option<String>) -> Result<Prompt, Error> {
    if system.is_some() {
        let text = "option system needs the chat template, and option raw goes without it; give one of them";
        return Err(Error::InvalidOption(text.into()));
    }
    Ok(Prompt::Text(prompt))
}

/// Waits for all vectors.
async fn vectors(embedding: Embedding) -> Result<Embedded, Error> {
    match embedding.end.await {
        Ok(EmbedEnd::Done(embedded)) => Ok(embedded),
        Ok(EmbedEnd::Cancelled) => Err(Error::Cancelled("the texts were not wanted any more".into())),
        Ok(EmbedEnd::Failed(message)) => Err(Error::Failed(message)),
        Err(_) => Err(Error::Failed("the model crashed while it embedded; load it again".into())),
    }
}

/// Waits for the whole answer.
async fn collect(mut answer: Answer) -> Result<(String, HashMap<String, OwnedVariant>), Error> {
    let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    loop {
        match answer.events.next().await {
            Some(Event::Start { .. }) => {}
            Some(Event::Delta { text: delta }) => text.push_str(&delta),
            Some(Event::Reasoning { text: delta }) => reasoning.push_str(&delta),
            Some(Event::ToolCall { id, name, arguments }) => {
                calls.push(json!({"id": id, "name": name, "arguments": arguments}));
            }
            Some(Event::Done { finish_reason: FinishReason::Cancelled, .. }) => {
                return Err(Error::Cancelled("the answer was cancelled".into()));
            }
            Some(Event::Done { finish_reason: reason, usage, timing }) => {
                let mut info = vec![
                    ("model", Variant::from(answer.session.model.clone())),
                    ("finish_reason", Variant::from(finish_reason(reason))),
                    ("prompt_tokens", Variant::from(usage.prompt_tokens)),
                    ("cached_tokens", Variant::from(usage.cached_tokens)),
                    ("completion_tokens", Variant::from(usage.completion_tokens)),
                    ("proposed_tokens", Variant::from(usage.proposed_tokens)),
                    ("accepted_tokens", Variant::from(usage.accepted_tokens)),
                    ("queued_ms", Variant::from(milliseconds(timing.queued))),
                    ("first_token_ms", Variant::from(milliseconds(timing.first_token))),
                    ("total_ms", Variant::from(milliseconds(timing.total))),
                ];
                let reasoning = (!reasoning.is_empty()).then(|| Variant::from(reasoning));
                info.extend(reasoning.map(|text| ("reasoning", text)));
                let calls = (!calls.is_empty()).then(|| Variant::from(json!(calls).to_string()));
                info.extend(calls.map(|json| ("tool_calls", json)));
                return Ok((text, dictionary(info)));
            }
            Some(Event::Error { message }) => return Err(Error::Failed(message)),
            None => return Err(Error::Failed("the answer ended without a reason".into())),
        }
    }
}

fn dictionary(entries: Vec<(&str, Variant<'_>)>) -> HashMap<String, OwnedVariant> {
    let owned = |value: Variant<'_>| value.try_into().expect("holds no file descriptor");
    entries.into_iter().map(|(key, value)| (key.to_owned(), owned(value))).collect()
}
