//! The API server as the store of addresses: carries out [`StoreCall`]s, one request each, every one with a deadline.
//!
//! | status | means |
//! |---|---|
//! | 409 AlreadyExists | `Exists` |
//! | 409, other reasons | `Conflict` |
//! | 404 | `NotFound` |
//! | 400, 403, 405, 413, 415, 422 | `Denied`: rights, admission or schema; repeating it is pointless |
//! | everything else, a deadline, a broken connection | `Unknown`: the write may have happened, or may yet happen |

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use ::ipam::codec;
use ::ipam::store::{Key, Meta, Object, StoreCall, StoreError, StoreReply, Stored};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest wait for one request.
const LIMIT: Duration = Duration::from_secs(5);

/// The objects of address management in the API server.
#[derive(Clone)]
pub struct Store {
    node: Arc<str>,
    blocks: Api<api::IPAMBlock>,
    affinities: Api<api::BlockAffinity>,
    handles: Api<api::IPAMHandle>,
}

impl Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The store as `node` writes it.
    pub fn new(client: &Client, node: Arc<str>) -> Self {
        Self {
            node,
            blocks: Api::all(client.clone()),
            affinities: Api::all(client.clone()),
            handles: Api::all(client.clone()),
        }
    }

    /// The store as the leader writes it: labels of nodes stay as they are.
    pub fn of_leader(client: &Client) -> Self {
        Self::new(client, Arc::from(""))
    }

    /// Carries a call out.
    ///
    /// # Errors
    /// As the table above.
    pub async fn carry_out(&self, call: StoreCall) -> Result<StoreReply, StoreError> {
        match tokio::time::timeout(LIMIT, self.send(call)).await {
            Ok(reply) => reply,
            Err(_elapsed) => Err(StoreError::Unknown(format!("no answer within {LIMIT:?}"))),
        }
    }

    async fn send(&self, call: StoreCall) -> Result<StoreReply, StoreError> {
        match call {
            StoreCall::Get(key) => self.get(&key).await,
            StoreCall::Create(object) => self.create(&object).await,
            StoreCall::Swap(object, meta) => self.swap(&object, &meta).await,
            StoreCall::Remove(key, meta) => self.remove(&key, &meta).await,
        }
    }

    async fn get(&self, key: &Key) -> Result<StoreReply, StoreError> {
        let name = key.name();
        let object = match key {
            Key::Block(_) => block(&self.blocks.get(&name).await.map_err(read_error)?)?,
            Key::Affinity(..) => affinity(&self.affinities.get(&name).await.map_err(read_error)?)?,
            Key::Handle(_) => handle(&self.handles.get(&name).await.map_err(read_error)?),
        };
        Ok(StoreReply::Object(object))
    }

    async fn create(&self, object: &Object) -> Result<StoreReply, StoreError> {
        let stored = match object {
            Object::Block(value) => {
                block(&create(&self.blocks, &codec::render_block(value, None)).await?)?
            }
            Object::Affinity(value) => {
                affinity(&create(&self.affinities, &codec::render_affinity(value, None)).await?)?
            }
            Object::Handle(value) => handle(
                &create(
                    &self.handles,
                    &codec::render_handle(value, &self.node, None),
                )
                .await?,
            ),
        };
        Ok(StoreReply::Object(stored))
    }

    async fn swap(&self, object: &Object, meta: &Meta) -> Result<StoreReply, StoreError> {
        let name = object.key().name();
        let meta = Some(meta);
        let stored = match object {
            Object::Block(value) => {
                block(&replace(&self.blocks, &name, &codec::render_block(value, meta)).await?)?
            }
            Object::Affinity(value) => affinity(
                &replace(
                    &self.affinities,
                    &name,
                    &codec::render_affinity(value, meta),
                )
                .await?,
            )?,
            Object::Handle(value) => handle(
                &replace(
                    &self.handles,
                    &name,
                    &codec::render_handle(value, &self.node, meta),
                )
                .await?,
            ),
        };
        Ok(StoreReply::Object(stored))
    }

    async fn remove(&self, key: &Key, meta: &Meta) -> Result<StoreReply, StoreError> {
        let name = key.name();
        match key {
            Key::Block(_) => remove(&self.blocks, &name, meta).await,
            Key::Affinity(..) => remove(&self.affinities, &name, meta).await,
            Key::Handle(_) => remove(&self.handles, &name, meta).await,
        }
    }
}

async fn create<K>(objects: &Api<K>, object: &K) -> Result<K, StoreError>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug,
{
    objects
        .create(&PostParams::default(), object)
        .await
        .map_err(write_error)
}

/// The rendered object bears uid and version: the server refuses it once either has changed.
async fn replace<K>(objects: &Api<K>, name: &str, object: &K) -> Result<K, StoreError>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug,
{
    objects
        .replace(name, &PostParams::default(), object)
        .await
        .map_err(write_error)
}

async fn remove<K>(objects: &Api<K>, name: &str, meta: &Meta) -> Result<StoreReply, StoreError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let preconditions = Preconditions {
        uid: Some(meta.uid.to_string()),
        resource_version: Some(meta.version.to_string()),
    };
    let params = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    objects.delete(name, &params).await.map_err(write_error)?;
    Ok(StoreReply::Removed)
}

fn block(stored: &api::IPAMBlock) -> Result<Stored<Object>, StoreError> {
    let Stored { meta, value } =
        codec::parse_block(stored).map_err(|why| StoreError::Broken(why.to_string()))?;
    Ok(Stored {
        meta,
        value: Object::Block(Box::new(value)),
    })
}

fn affinity(stored: &api::BlockAffinity) -> Result<Stored<Object>, StoreError> {
    let Stored { meta, value } =
        codec::parse_affinity(stored).map_err(|why| StoreError::Broken(why.to_string()))?;
    Ok(Stored {
        meta,
        value: Object::Affinity(value),
    })
}

fn handle(stored: &api::IPAMHandle) -> Stored<Object> {
    let Stored { meta, value } = codec::parse_handle(stored);
    Stored {
        meta,
        value: Object::Handle(value),
    }
}

/// A read that does not deserialise says that the object is broken.
fn read_error(error: kube::Error) -> StoreError {
    if let kube::Error::SerdeError(why) = &error {
        return StoreError::Broken(why.to_string());
    }
    write_error(error)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` takes")]
fn write_error(error: kube::Error) -> StoreError {
    if let kube::Error::Api(status) = &error {
        return judge(status.code, &status.reason, &status.message);
    }
    StoreError::Unknown(chain(&error))
}

/// What an answer of the server means.
fn judge(code: u16, reason: &str, message: &str) -> StoreError {
    let words = || {
        if message.is_empty() {
            format!("{code} {reason}")
        } else {
            message.to_owned()
        }
    };
    match code {
        409 if reason == "AlreadyExists" => StoreError::Exists,
        409 => StoreError::Conflict,
        404 => StoreError::NotFound,
        400 | 403 | 405 | 413 | 415 | 422 => StoreError::Denied(words()),
        _ => StoreError::Unknown(words()),
    }
}

/// An error with its causes: the outermost one alone says little about a connection.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_server_mean_what_the_table_says() {
        for (code, reason, expected) in [
            (409, "AlreadyExists", StoreError::Exists),
            (409, "Conflict", StoreError::Conflict),
            (404, "NotFound", StoreError::NotFound),
            (403, "Forbidden", StoreError::Denied("no".to_owned())),
            (422, "Invalid", StoreError::Denied("no".to_owned())),
            (401, "Unauthorized", StoreError::Unknown("no".to_owned())),
            (429, "TooManyRequests", StoreError::Unknown("no".to_owned())),
            (500, "InternalError", StoreError::Unknown("no".to_owned())),
            (504, "Timeout", StoreError::Unknown("no".to_owned())),
        ] {
            assert_eq!(judge(code, reason, "no"), expected, "{code} {reason}");
        }
        assert_eq!(
            judge(403, "Forbidden", ""),
            StoreError::Denied("403 Forbidden".to_owned())
        );
    }
}
