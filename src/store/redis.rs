//! One Lua script call per batch.
