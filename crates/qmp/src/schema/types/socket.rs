//! Addresses.

use super::common::{Data, wrapped};

qapi_struct! {
    /// A TCP address.
    pub struct InetSocketAddress {
        host: String,
        port: String,
        numeric: Option<bool>,
        /// The last port to try.
        to: Option<u16>,
        ipv4: Option<bool>,
        ipv6: Option<bool>,
        keep_alive: Option<bool>,
        mptcp: Option<bool>,
    }
}

qapi_struct! {
    /// A socket in the file system, or in Linux's abstract name space.
    pub struct UnixSocketAddress {
        path: String,
        r#abstract: Option<bool>,
        tight: Option<bool>,
    }
}

qapi_struct! {
    /// A socket between a virtual machine and its host.
    pub struct VsockSocketAddress { cid: String, port: String }
}

qapi_struct! {
    /// A descriptor that the program has been given.
    pub struct FdSocketAddress {
        /// Its number or name.
        str: String,
    }
}

qapi_enum! {
    /// Kinds of addresses.
    pub enum SocketAddressType { Inet, Unix, Vsock, Fd }
}

qapi_union! {
    /// An address.
    pub struct SocketAddress {}
    /// The kind, and what it takes.
    r#type: SocketAddressType => pub enum SocketAddressData {
        Inet(InetSocketAddress),
        Unix(UnixSocketAddress),
        Vsock(VsockSocketAddress),
        Fd(FdSocketAddress),
    }
}

qapi_union! {
    /// An address, with its members in one called `data`.
    pub struct SocketAddressLegacy {}
    /// The kind, and what it takes.
    r#type: SocketAddressType => pub enum SocketAddressLegacyData {
        Inet(Data<InetSocketAddress>),
        Unix(Data<UnixSocketAddress>),
        Vsock(Data<VsockSocketAddress>),
        Fd(Data<FdSocketAddress>),
    }
}

wrapped!(
    InetSocketAddress "InetSocketAddressWrapper",
    UnixSocketAddress "UnixSocketAddressWrapper",
    VsockSocketAddress "VsockSocketAddressWrapper",
    FdSocketAddress "FdSocketAddressWrapper",
);

impl From<SocketAddressLegacy> for SocketAddress {
    fn from(address: SocketAddressLegacy) -> Self {
        let r#type = match address.r#type {
            SocketAddressLegacyData::Inet(Data { data }) => SocketAddressData::Inet(data),
            SocketAddressLegacyData::Unix(Data { data }) => SocketAddressData::Unix(data),
            SocketAddressLegacyData::Vsock(Data { data }) => SocketAddressData::Vsock(data),
            SocketAddressLegacyData::Fd(Data { data }) => SocketAddressData::Fd(data),
        };
        Self { r#type }
    }
}
