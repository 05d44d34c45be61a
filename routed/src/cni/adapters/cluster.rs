//! The World by way of its handle, and the API server where the watch is behind.

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::{Api, Client};
use model::{AttachmentId, LocalEndpoint, PodRef};

use crate::cni::seams::Cluster;
use crate::kube::objects::{NamespaceObject, PodObject};
use crate::world::{CniSettings, PodView, SyncState, Unprogrammed, WorldHandle};

/// The World, with a client for the one GET an ADD may need.
#[derive(Clone)]
pub struct World {
    handle: WorldHandle,
    client: Client,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

impl World {
    /// Over the handle of the task that owns the World.
    pub fn new(handle: WorldHandle, client: Client) -> Self {
        Self { handle, client }
    }
}

impl Cluster for World {
    fn sync(&self) -> SyncState {
        self.handle.sync().borrow().clone()
    }

    fn settings(&self) -> CniSettings {
        self.handle.settings().borrow().clone()
    }

    fn pod(&self, id: PodRef) -> BoxFuture<'_, Option<PodView>> {
        async move { self.handle.pod(&id).await }.boxed()
    }

    fn fetch_pod(&self, id: PodRef) -> BoxFuture<'_, Result<Option<PodView>, String>> {
        async move {
            let pods: Api<PodObject> = Api::namespaced(self.client.clone(), id.namespace.as_str());
            let namespaces: Api<NamespaceObject> = Api::all(self.client.clone());
            let Some(pod) = pods
                .get_opt(id.name.as_str())
                .await
                .map_err(|error| error.to_string())?
            else {
                return Ok(None);
            };
            let namespace = namespaces
                .get_opt(id.namespace.as_str())
                .await
                .map_err(|error| error.to_string())?;
            Ok(Some(PodView {
                pod: pod.into_model(),
                namespace: namespace.map(NamespaceObject::into_model),
            }))
        }
        .boxed()
    }

    fn program(&self, endpoint: LocalEndpoint) -> BoxFuture<'_, Result<(), Unprogrammed>> {
        async move { self.handle.program(endpoint).await }.boxed()
    }

    fn withdraw(&self, id: AttachmentId) -> BoxFuture<'_, Result<(), Unprogrammed>> {
        async move { self.handle.withdraw(id).await }.boxed()
    }

    fn adopt(&self, endpoints: Vec<LocalEndpoint>) -> BoxFuture<'_, Result<(), Unprogrammed>> {
        async move { self.handle.adopt(endpoints).await }.boxed()
    }
}
