//! What all handles of a limiter share: the registry of its buckets, what its sessions have in
//! common, and what stands in for a store that cannot be reached.

use std::sync::{Arc, PoisonError};

#[cfg(feature = "llm")]
use super::registry::Naming;
use super::{
    builder::{OnUnavailable, Options, Settings},
    context::Context,
    registry::{Found, Names, Registry, Superseded, declared_now},
    status::Waiting,
    target::BucketTarget,
};
use crate::{
    error::{BadDemand, Throttled},
    limits::{Limits, LimitsError, Table},
    name::Name,
    store::MemoryStore,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// A limiter.
pub(super) struct Inner {
    context: Arc<Context>,
    registry: RwLock<Registry>,
    /// Stands in while the store cannot be reached.
    fallback: Option<Arc<Self>>,
}

impl Inner {
    /// A limiter with these limits and options.
    pub(super) fn new(settings: Settings) -> Result<Arc<Self>, LimitsError> {
        let Settings { limits, store, options } = settings;
        let fallback = match options.on_unavailable {
            OnUnavailable::Local { share } => {
                let options = Options { on_unavailable: OnUnavailable::Fail, ..options.clone() };
                let limits = limits.scaled(share);
                Some(Self::new(Settings { limits, store: None, options })?)
            }
            _ => None,
        };
        let store = store.unwrap_or_else(|| Arc::new(MemoryStore::new()));
        let table = Arc::new(limits.compile()?);
        let context = Arc::new(Context::new(store, options, table.clone()));
        Ok(Arc::new(Self { context, registry: RwLock::new(Registry::new(table)), fallback }))
    }

    #[inline]
    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn fallback(&self) -> Option<&Arc<Self>> {
        self.fallback.as_ref()
    }

    #[inline]
    pub(super) fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry_mut(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where demands on these names are counted; nothing if they are unlimited.
    pub(super) fn find(&self, names: &Names) -> Result<Option<Arc<BucketTarget>>, Throttled> {
        if let Some(target) = self.registry().find(names) {
            return Ok(Some(target.clone()));
        }
        loop {
            let lookup = self.registry().lookup()?;
            let found = Found::of(names, &lookup)?;
            let made = self.registry_mut().find_or_make(names, found, &lookup, &self.context);
            return match made {
                Ok(None) => Ok(None),
                Ok(Some((target, has_changed))) => {
                    if has_changed {
                        target.session.follow_limits();
                    }
                    Ok(Some(target))
                }
                Err(Superseded) => continue,
            };
        }
    }

    /// Looks names up as a layer does from now on, too.
    #[cfg(feature = "llm")]
    pub(super) fn learn(&self, known_by: &'static str, naming: &Naming) {
        self.registry_mut().learn(known_by, naming.clone());
        if let Some(fallback) = &self.fallback {
            fallback.learn(known_by, naming);
        }
    }

    /// Where demands on one bucket are counted.
    pub(super) fn find_bucket(&self, bucket: &str) -> Result<Arc<BucketTarget>, Throttled> {
        let names = Names::from_iter([Name::new(bucket)]);
        self.find(&names)?
            .ok_or_else(|| Throttled::BadDemand(BadDemand::UnknownBucket(bucket.into())))
    }

    /// The demands that wait.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let sessions = self.registry().sessions();
        sessions.iter().flat_map(|session| session.waiting()).collect()
    }

    /// Replaces the limits. Returns the buckets in use that are declared no more.
    pub(super) fn update(&self, limits: &Limits) -> Result<Vec<Arc<str>>, LimitsError> {
        let table = Arc::new(limits.compile()?);
        if let (Some(fallback), OnUnavailable::Local { share }) =
            (&self.fallback, self.context.options().on_unavailable)
        {
            fallback.update(&limits.scaled(share))?;
        }
        self.context.replace(table.clone());
        let handles = self.registry_mut().replace(table.clone());
        // This may ask the user's resolver, so no lock is held.
        let declared = |table: &Table| {
            handles.iter().map(|handle| (handle.clone(), declared_now(handle, table))).collect()
        };
        let declared = declared(&table);
        let (sessions, dropped) = self.registry_mut().declare_all(&table, declared);
        sessions.iter().for_each(|session| session.follow_limits());
        Ok(dropped)
    }

    /// Refuses every demand from now on, and those that wait; then waits until what is to be sent
    /// has reached the store, or it does not answer.
    pub(super) async fn close(&self) {
        if let Some(fallback) = &self.fallback {
            Box::pin(fallback.close()).await;
        }
        let sessions = self.registry_mut().close();
        sessions.iter().for_each(|session| session.close());
        for session in sessions {
            session.flushed().await;
        }
    }
}
