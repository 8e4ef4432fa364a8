//! What HDFS's failures mean. The NameNode says it by the name of a Java class.

use std::io;

use hdfs_native::HdfsError;

use crate::error::{Error, ErrorKind};

/// The error that `error` means, told of `what`.
pub(super) fn translate(error: &HdfsError, what: &str) -> Error {
    let kind = kind(error);
    let message = match error {
        // The Java stack trace follows the first line.
        HdfsError::RPCError(class, message) | HdfsError::FatalRPCError(class, message) => {
            format!("{} ({})", first_line(message), class.rsplit('.').next().unwrap_or(class))
        }
        HdfsError::AlreadyExists(message) => first_line(message).to_owned(),
        HdfsError::FileNotFound(_) => "no such file or directory".to_owned(),
        // Lists every replica in debugging form, over a page.
        HdfsError::DataTransferError(_) if replicas_failed(error).is_some() => {
            "no DataNode that has this HDFS block could be read".to_owned()
        }
        other => first_line(&other.to_string()).to_owned(),
    };
    let translated = Error::new(kind, format!("{what}: {message}"));
    if is_of_one_file(error) { translated.of_one_file() } else { translated }
}

/// How many replicas were listed, if `error` says that all replicas of an HDFS block have failed.
pub(super) fn replicas_failed(error: &HdfsError) -> Option<usize> {
    let HdfsError::DataTransferError(message) = error else { return None };
    let listed = message.strip_prefix("All DataNodes failed: ")?;
    Some(listed.matches("DatanodeIdProto {").count())
}

/// Whether the NameNode gives no further HDFS block yet: it has not heard of those before.
pub(super) fn is_behind(error: &HdfsError) -> bool {
    let (HdfsError::RPCError(class, _) | HdfsError::FatalRPCError(class, _)) = error else { return false };
    class_name(class) == "NotReplicatedYetException"
}

/// Whether the NameNode has answered, and what it says is of this file alone.
fn is_of_one_file(error: &HdfsError) -> bool {
    match error {
        HdfsError::BlocksNotFound(_) => true,
        HdfsError::RPCError(class, _) | HdfsError::FatalRPCError(class, _) => {
            matches!(class_name(class), "CannotObtainBlockLengthException" | "NotReplicatedYetException")
        }
        _ => false,
    }
}

/// The last part of a Java class name is enough: the packages moved between Hadoop's versions.
fn class_name(class: &str) -> &str {
    class.rsplit(['.', '$']).next().unwrap_or(class)
}

/// A NameNode that cannot be talked to, with the remedy; other failures as [`translate`] tells them.
pub(super) fn translate_call(error: &HdfsError, what: &str, authority: &str) -> Error {
    let HdfsError::IOError(cause) = error else { return translate(error, what) };
    let remedy = match cause.kind() {
        io::ErrorKind::ConnectionRefused => "is it running, and is this its RPC port?",
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
            "is this its RPC port, and does it take this kind of authentication?"
        }
        _ => "is the name right, and is the network to it open?",
    };
    Error::new(
        ErrorKind::Unavailable,
        format!("{what}: cannot reach the NameNode at {authority}: {}; {remedy}", plain(cause)),
    )
}

/// An operating system's error as the middle of a sentence, without its "(os error 111)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match text.split_at_checked(1) {
        // "Connection refused", but not "RPC listener disconnected".
        Some((first, rest)) if rest.starts_with(|next: char| next.is_ascii_lowercase()) => {
            first.to_ascii_lowercase() + rest
        }
        _ => text.to_owned(),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim()
}

fn kind(error: &HdfsError) -> ErrorKind {
    match error {
        HdfsError::IOError(e) if e.kind() == io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        HdfsError::IOError(_) | HdfsError::DataTransferError(_) | HdfsError::BlocksNotFound(_) => {
            ErrorKind::Unavailable
        }
        HdfsError::ChecksumError => ErrorKind::Corrupt,
        HdfsError::InvalidArgument(why) if why.starts_with("Cannot rename across") => ErrorKind::CrossDevice,
        HdfsError::InvalidPath(_) | HdfsError::InvalidArgument(_) | HdfsError::UrlParseError(_) => {
            ErrorKind::InvalidArgument
        }
        HdfsError::XmlParseError(_) => ErrorKind::InvalidArgument,
        // The client makes one of `FileAlreadyExists` and `AlreadyBeingCreated`: "Failed to APPEND_FILE …
        // because this file lease is currently owned by …".
        HdfsError::AlreadyExists(why) if why.starts_with("Failed to ") && why.contains(" because ") => {
            ErrorKind::Busy
        }
        HdfsError::AlreadyExists(_) => ErrorKind::AlreadyExists,
        HdfsError::FileNotFound(_) => ErrorKind::NotFound,
        HdfsError::IsADirectoryError(_) => ErrorKind::IsADirectory,
        HdfsError::UnsupportedErasureCodingPolicy(_) | HdfsError::UnsupportedFeature(_) => {
            ErrorKind::Unsupported
        }
        // "hsync is not supported for erasure-coded files"
        HdfsError::OperationFailed(why) if why.contains("not supported for erasure-coded") => {
            ErrorKind::Unsupported
        }
        HdfsError::OperationFailed(why) if why.contains("KMS") => kind_of_key_server(why),
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => {
            ErrorKind::PermissionDenied
        }
        HdfsError::RPCError(class, message) | HdfsError::FatalRPCError(class, message) => {
            kind_of_exception(class, message)
        }
        HdfsError::ErasureCodingError(_)
        | HdfsError::OperationFailed(_)
        | HdfsError::TrashNotEnabled
        | HdfsError::InternalError(_)
        | HdfsError::InvalidRPCResponse(_) => ErrorKind::Other,
    }
}

/// What `hdfs-native` says of the key server of encryption zones.
fn kind_of_key_server(why: &str) -> ErrorKind {
    match why {
        _ if why.contains("no KMS provider is configured") => ErrorKind::Unsupported,
        _ if why.contains("KMS HTTP error") => ErrorKind::Unavailable,
        _ if why.contains("KMS request failed (403") || why.contains("KMS request failed (401") => {
            ErrorKind::PermissionDenied
        }
        _ => ErrorKind::Other,
    }
}

fn kind_of_exception(class: &str, message: &str) -> ErrorKind {
    match class_name(class) {
        "FileNotFoundException" | "NoSuchFileException" => ErrorKind::NotFound,
        // Before AccessControlException: walking through a file is told as either.
        "ParentNotDirectoryException" | "PathIsNotDirectoryException" | "NotDirectoryException" => {
            ErrorKind::NotADirectory
        }
        "AccessControlException" | "TraverseAccessControlException"
            if message.contains("is not a directory") =>
        {
            ErrorKind::NotADirectory
        }
        "AccessControlException"
        | "TraverseAccessControlException"
        | "AuthorizationException"
        | "InvalidToken"
        | "SaslException"
        | "SecurityException" => ErrorKind::PermissionDenied,
        "FileAlreadyExistsException" => ErrorKind::AlreadyExists,
        // The lease of a file that was deleted, by us or somebody else.
        "LeaseExpiredException" if message.contains("does not exist") => ErrorKind::NotFound,
        "AlreadyBeingCreatedException" | "RecoveryInProgressException" | "LeaseExpiredException" => {
            ErrorKind::Busy
        }
        "PathIsNotEmptyDirectoryException" => ErrorKind::NotEmpty,
        "PathIsDirectoryException" => ErrorKind::IsADirectory,
        "SafeModeException"
        | "StandbyException"
        | "RetriableException"
        | "ObserverRetryOnActiveException"
        | "NotReplicatedYetException"
        | "ServerTooBusyException"
        | "CannotObtainBlockLengthException"
        | "RpcNoSuchProtocolException" => ErrorKind::Unavailable,
        "QuotaExceededException"
        | "NSQuotaExceededException"
        | "DSQuotaExceededException"
        | "QuotaByStorageTypeExceededException"
        | "DiskOutOfSpaceException" => ErrorKind::NoSpace,
        "PathComponentTooLongException" => ErrorKind::NameTooLong,
        "InvalidPathException" | "IllegalArgumentException" | "HadoopIllegalArgumentException" => {
            ErrorKind::InvalidArgument
        }
        "UnsupportedOperationException" | "RpcNoSuchMethodException" => ErrorKind::Unsupported,
        // Names of many things; the message tells them apart.
        _ if message.contains("could only be written to 0 of") => ErrorKind::NoSpace,
        _ if message.contains("is not a directory") => ErrorKind::NotADirectory,
        _ if message.contains("Pathname too long") => ErrorKind::NameTooLong,
        _ if message.contains("can't be moved into an encryption zone")
            || message.contains("can't be moved from an encryption zone")
            || message.contains("can't be moved from encryption zone") =>
        {
            ErrorKind::CrossDevice
        }
        _ if message.contains("is not sufficiently replicated yet") => ErrorKind::Unavailable,
        _ if message.contains("Access time for hdfs is not configured") => ErrorKind::Unsupported,
        // Of `create`: the limits of the cluster.
        _ if message.contains("Specified block size")
            || message.contains("Requested replication factor of") =>
        {
            ErrorKind::InvalidArgument
        }
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_classes() {
        let cases = [
            ("java.io.FileNotFoundException", ErrorKind::NotFound),
            ("org.apache.hadoop.security.AccessControlException", ErrorKind::PermissionDenied),
            ("org.apache.hadoop.hdfs.server.namenode.SafeModeException", ErrorKind::Unavailable),
            ("org.apache.hadoop.ipc.RetriableException", ErrorKind::Unavailable),
            ("org.apache.hadoop.ipc.StandbyException", ErrorKind::Unavailable),
            ("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException", ErrorKind::NoSpace),
            ("org.apache.hadoop.hdfs.protocol.NSQuotaExceededException", ErrorKind::NoSpace),
            ("org.apache.hadoop.fs.PathIsNotEmptyDirectoryException", ErrorKind::NotEmpty),
            ("org.apache.hadoop.fs.FileAlreadyExistsException", ErrorKind::AlreadyExists),
            ("org.apache.hadoop.fs.ParentNotDirectoryException", ErrorKind::NotADirectory),
            (
                "org.apache.hadoop.hdfs.protocol.FSLimitException$PathComponentTooLongException",
                ErrorKind::NameTooLong,
            ),
            ("org.apache.hadoop.fs.InvalidPathException", ErrorKind::InvalidArgument),
            ("java.io.IOException", ErrorKind::Other),
            ("org.apache.hadoop.hdfs.protocol.AlreadyBeingCreatedException", ErrorKind::Busy),
            ("org.apache.hadoop.hdfs.protocol.RecoveryInProgressException", ErrorKind::Busy),
            ("org.apache.hadoop.hdfs.server.namenode.LeaseExpiredException", ErrorKind::Busy),
        ];
        for (class, kind) in cases {
            let error = HdfsError::RPCError(class.into(), "reason\n\tat a.b.C".into());
            let error = translate(&error, "/a");
            assert_eq!(error.kind(), kind, "{class}");
            assert!(error.message().starts_with("/a: reason ("), "{error}");
            assert_eq!(error.message().lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn what_erasure_coded_files_cannot_do_is_unsupported() {
        let why = "hsync is not supported for erasure-coded files".to_owned();
        assert_eq!(translate(&HdfsError::OperationFailed(why), "/a").kind(), ErrorKind::Unsupported);
        let other = HdfsError::OperationFailed("Failed to complete file after retries".into());
        assert_eq!(translate(&other, "/a").kind(), ErrorKind::Other);
    }

    #[test]
    fn errors_of_the_key_server() {
        for (why, kind) in [
            ("File is in an HDFS encryption zone but no KMS provider is configured", ErrorKind::Unsupported),
            ("KMS HTTP error: error sending request", ErrorKind::Unavailable),
            ("KMS request failed (403 Forbidden): AuthorizationException", ErrorKind::PermissionDenied),
            ("KMS request failed (500 Internal Server Error): x", ErrorKind::Other),
        ] {
            assert_eq!(translate(&HdfsError::OperationFailed(why.into()), "/a").kind(), kind, "{why}");
        }
    }

    #[test]
    fn unreachable_names_the_place_and_the_remedy() {
        let refused = HdfsError::IOError(io::Error::from_raw_os_error(111));
        let error = translate_call(&refused, "/", "nn:1234");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(
            error.message(),
            "/: cannot reach the NameNode at nn:1234: connection refused; is it running, and is this its RPC port?"
        );
    }

    #[test]
    fn replicas_are_not_listed_in_a_message() {
        let error = HdfsError::DataTransferError(
            "All DataNodes failed: [DatanodeInfoProto { id: DatanodeIdProto { ip_addr: 1 } }]".into(),
        );
        assert_eq!(replicas_failed(&error), Some(1));
        let error = translate(&error, "/a");
        assert_eq!(error.message(), "/a: no DataNode that has this HDFS block could be read");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
