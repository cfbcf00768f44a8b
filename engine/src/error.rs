//! Error codes of the client protocol (fact sheet 2.3). What goes to the client is one of these.

/// A code of a reply header or of a multi result. 0 is success.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub i32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $n:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Code = Code($n);)*
            /// The name as ZooKeeper's documents spell it, or `UNKNOWN`.
            pub const fn name(self) -> &'static str {
                match self.0 { $($n => stringify!($name),)* _ => "UNKNOWN" }
            }
        }
    };
}

codes! {
    OK = 0;
    SYSTEMERROR = -1;
    /// Every other operation of a failed multi.
    RUNTIMEINCONSISTENCY = -2;
    DATAINCONSISTENCY = -3;
    CONNECTIONLOSS = -4;
    MARSHALLINGERROR = -5;
    UNIMPLEMENTED = -6;
    OPERATIONTIMEOUT = -7;
    BADARGUMENTS = -8;
    UNKNOWNSESSION = -12;
    NEWCONFIGNOQUORUM = -13;
    RECONFIGINPROGRESS = -14;
    APIERROR = -100;
    NONODE = -101;
    NOAUTH = -102;
    BADVERSION = -103;
    NOCHILDRENFOREPHEMERALS = -108;
    NODEEXISTS = -110;
    NOTEMPTY = -111;
    SESSIONEXPIRED = -112;
    INVALIDCALLBACK = -113;
    INVALIDACL = -114;
    AUTHFAILED = -115;
    SESSIONMOVED = -118;
    NOTREADONLY = -119;
    EPHEMERALONLOCALSESSION = -120;
    NOWATCHER = -121;
    REQUESTTIMEOUT = -122;
    RECONFIGDISABLED = -123;
    SESSIONCLOSEDREQUIRESASLAUTH = -124;
    QUOTAEXCEEDED = -125;
    THROTTLEDOP = -127;
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}
impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}
