//! How far a look has come.

/// How far an [`Upgrade`](crate::Upgrade) has come. In this order; what is not needed is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The source is asked.
    Looking,
    /// The release is on its way. Said once at the beginning and then after each piece.
    Downloading {
        /// How many bytes of the published file are there. A download that goes on where an earlier run was ended begins with those of that one.
        bytes: u64,
        /// How many it has, if the source says so.
        bytes_total: Option<u64>,
    },
    /// It is unpacked. Said after each piece.
    Unpacking {
        /// How many bytes of the binary are there.
        bytes: u64,
    },
    /// It is proved: header, marker, self-check, pre-upgrade hook.
    Checking,
    /// It takes the place of the program's file. Takes milliseconds.
    Installing,
}

impl Progress {
    /// The number that grows.
    pub(crate) fn bytes(self) -> Option<u64> {
        match self {
            Self::Downloading { bytes, .. } | Self::Unpacking { bytes } => Some(bytes),
            Self::Looking | Self::Checking | Self::Installing => None,
        }
    }
}
