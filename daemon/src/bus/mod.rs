//! The object tree. Translates calls to [`Service`] and its state to objects; decides nothing.

pub mod error;
mod manager;
mod model;
pub mod options;
mod session;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, fdo};

pub use manager::Manager;
pub use model::Model;
pub use session::{Session, end};

use crate::ROOT;
use crate::models::Snapshot;
use crate::service::{Client, Service};

/// Who sent a call.
fn client_of(header: &Header<'_>) -> Client {
    header.sender().map(|name| name.to_string())
}

/// Puts the manager and the models on `connection`.
///
/// # Errors
/// Those of the connection.
pub async fn publish(connection: &Connection, service: &Arc<Service>) -> zbus::Result<Published> {
    let server = connection.object_server();
    server.at(ROOT, fdo::ObjectManager).await?;
    let mut published = Published { models: BTreeMap::new() };
    published.update(connection, service).await?;
    server.at(ROOT, Manager { service: service.clone() }).await?;
    Ok(published)
}

/// The models that are objects now, as they were last told.
pub struct Published {
    models: BTreeMap<String, Snapshot>,
}

impl Published {
    /// Follows the catalogue until the connection ends.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn follow(mut self, connection: &Connection, service: &Arc<Service>) -> zbus::Result<()> {
        let mut changes = service.models.changes();
        // What changed since `publish`.
        self.update(connection, service).await?;
        while changes.changed().await.is_ok() {
            self.update(connection, service).await?;
        }
        Ok(())
    }

    async fn update(&mut self, connection: &Connection, service: &Arc<Service>) -> zbus::Result<()> {
        let server = connection.object_server();
        let now: BTreeMap<_, _> =
            service.models.snapshot().into_iter().map(|m| (m.name.clone(), m)).collect();
        for name in self.models.keys().filter(|name| !now.contains_key(*name)) {
            server.remove::<Model, _>(model::path(name)).await?;
        }
        for (name, snapshot) in &now {
            let path = model::path(name);
            match self.models.get(name) {
                None => {
                    server.at(path, Model::new(service.clone(), name.clone())).await?;
                }
                Some(before) if before != snapshot => {
                    let object = server.interface::<_, Model>(path).await?;
                    signal(&*object.get().await, object.signal_emitter()).await?;
                }
                Some(_) => {}
            }
        }
        self.models = now;
        Ok(())
    }
}

/// Loading and a new file change these together.
async fn signal(model: &Model, emitter: &SignalEmitter<'_>) -> zbus::Result<()> {
    model.loaded_changed(emitter).await?;
    model.problem_changed(emitter).await?;
    model.family_changed(emitter).await?;
    model.context_changed(emitter).await?;
    model.layouts_changed(emitter).await?;
    model.size_bytes_changed(emitter).await?;
    model.working_bytes_changed(emitter).await?;
    model.backend_changed(emitter).await?;
    model.hash_changed(emitter).await?;
    model.license_changed(emitter).await?;
    model.embedding_width_changed(emitter).await
}
