//! Versions, capabilities, names of commands.

qapi_enum! {
    /// What a client may switch on.
    pub enum QMPCapability {
        /// Commands out of band.
        Oob,
    }
}

qapi_struct! {
    /// Arguments of `qmp_capabilities`.
    pub struct QmpCapabilities {
        /// What to switch on; nothing if not said.
        enable: Option<Vec<QMPCapability>>,
    }
}

qapi_struct! {
    /// A version in three numbers.
    pub struct VersionTriple { micro: i64, minor: i64, major: i64 }
}

qapi_struct! {
    /// The version of the schema and commands, and who made the program.
    pub struct VersionInfo {
        /// The release of the C daemon whose schema this is: clients decide by it what they may use.
        qemu: VersionTriple,
        package: String,
    }
}

impl VersionInfo {
    /// The release whose interface this is, said by a program of the given name and version.
    #[must_use]
    pub fn of_package(package: impl Into<String>) -> Self {
        Self { qemu: VersionTriple { micro: 2, minor: 0, major: 10 }, package: package.into() }
    }
}

qapi_struct! {
    /// The name of a command.
    pub struct CommandInfo { name: String }
}
