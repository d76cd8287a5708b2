//! What all handles of a limiter share: the registry of its buckets, what its sessions have in
//! common, and what stands in for a store that cannot be reached.

use std::sync::Arc;

#[cfg(feature = "llm")]
use super::registry::Naming;
use super::{
    builder::{LimiterBuilder, OnUnavailable, Options},
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
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, read, write},
};

/// A limiter.
pub(super) struct Inner {
    context: Arc<Context>,
    registry: RwLock<Registry>,
    /// Stands in while the store cannot be reached. Other limits may be the first to need it.
    fallback: RwLock<Option<Arc<Self>>>,
}

impl Inner {
    /// A limiter with these limits and options.
    pub(super) fn new(builder: LimiterBuilder) -> Result<Arc<Self>, LimitsError> {
        builder.validate()?;
        let LimiterBuilder { limits, store, options } = builder;
        // State in this process is always there.
        let local = store.as_ref().and_then(|_| limits.without_store(options.on_unavailable));
        let fallback = local.map(|limits| Self::stand_in(limits, &options)).transpose()?;
        let store = store.unwrap_or_else(|| Arc::new(MemoryStore::new()));
        let table = Arc::new(limits.compile()?);
        let context = Arc::new(Context::new(store, options, table.clone()));
        let registry = RwLock::new(Registry::new(table));
        Ok(Arc::new(Self { context, registry, fallback: RwLock::new(fallback) }))
    }

    /// What stands in for a store.
    fn stand_in(limits: Limits, options: &Options) -> Result<Arc<Self>, LimitsError> {
        let options = Options { on_unavailable: OnUnavailable::Fail, ..options.clone() };
        Self::new(LimiterBuilder { limits, store: None, options })
    }

    #[inline]
    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn fallback(&self) -> Option<Arc<Self>> {
        read(&self.fallback).clone()
    }

    /// What stands in for the store of a bucket, if something does.
    pub(super) fn fallback_of(&self, bucket: &str) -> Option<Arc<Self>> {
        let target = self.find_bucket(bucket).ok()?;
        let default = self.context.options().on_unavailable;
        self.fallback().filter(|_| target.set.is_local(default))
    }

    /// Replaces the limits of what stands in for the store, or makes it.
    fn update_fallback(&self, limits: &Limits) -> Result<(), LimitsError> {
        let options = self.context.options();
        let local = limits.without_store(options.on_unavailable);
        match (self.fallback(), local) {
            (Some(fallback), Some(local)) => fallback.update(&local).map(drop),
            (None, Some(local)) if !self.context.in_process() => {
                let made = Self::stand_in(local, options)?;
                made.registry_mut().take_names_of(&self.registry());
                *write(&self.fallback) = Some(made);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    #[inline]
    pub(super) fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        read(&self.registry)
    }

    fn registry_mut(&self) -> RwLockWriteGuard<'_, Registry> {
        write(&self.registry)
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
        if let Some(fallback) = self.fallback() {
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
        self.update_fallback(limits)?;
        let handles = {
            // Of two updates at once the same one comes last in both.
            let mut registry = self.registry_mut();
            self.context.replace(table.clone());
            registry.replace(table.clone())
        };
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
        if let Some(fallback) = self.fallback() {
            Box::pin(fallback.close()).await;
        }
        let sessions = self.registry_mut().close();
        sessions.iter().for_each(|session| session.close());
        for session in sessions {
            session.flushed().await;
        }
    }
}
