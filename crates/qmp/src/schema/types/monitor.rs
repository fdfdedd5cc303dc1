//! Monitors and their channels, on the command line only.

qapi_enum! {
    /// What a monitor speaks. Only `control` is QMP.
    pub enum MonitorMode { Readline, Control }
}

qapi_struct! {
    /// `--monitor`.
    pub struct MonitorOptions {
        id: Option<String>,
        mode: Option<MonitorMode>,
        pretty: Option<bool>,
        /// The `id` of a `--chardev`.
        chardev: String,
    }
}
