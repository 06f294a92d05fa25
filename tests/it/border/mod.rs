//! The whole gateway on real sockets: what leaves, what is recorded, what a reload does.

mod agreement;
mod bundles;
mod bundles_fixture;
mod certificates;
mod endings;
mod events;
mod failover;
mod faults;
mod faults_fixture;
mod fixture;
mod held;
mod limits;
mod live;
mod live_fixture;
mod objects;
mod objects_fixture;
mod promise;
mod reload;
mod replay;
mod seal;
mod seal_fixture;
mod shadow;
