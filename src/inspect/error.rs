//! Why inspection refuses a request.

use http::StatusCode;

use crate::message::{BodyFault, BodyTooLarge, HoldBodyError, ReadBodyError};

/// A request that inspection refuses. `Display` is the public reason; nothing internal is in it.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// An inference body that does not say it is JSON in UTF-8.
    #[error("the body must be `application/json` in UTF-8")]
    ContentType,
    /// A compressed inference body cannot be inspected.
    #[error("the body must not have a content coding")]
    ContentEncoding,
    /// The body is too large, idle, slow, malformed or broken off, or there was no room for it.
    #[error(transparent)]
    Body(#[from] HoldBodyError),
    /// No JSON object, or a member of the wrong type.
    #[error("the body is invalid: {0}")]
    BodyInvalid(&'static str),
    /// Nested deeper than 64 levels.
    #[error("the body is nested deeper than {} levels", super::json::MAX_DEPTH)]
    BodyTooDeep,
    /// A top-level key that servers could read as another one, or a second time.
    #[error(
        "the body has ambiguous top-level keys: doubles, or names that differ from a known one by case only"
    )]
    BodyAmbiguous,
    /// A body where the operation has none.
    #[error("this operation has no body")]
    BodyUnexpected,
    /// No cluster of the route serves the model.
    #[error("no cluster of this route serves the model")]
    ModelUnknown,
    /// Not one of the five S3 operations, or one with a parameter that changes what it does.
    #[error("the store operation is not supported: {0}")]
    StoreOperation(StoreFault),
    /// No dataset holds the object.
    #[error("the object belongs to no dataset")]
    DatasetUnknown,
    /// A listing that would show keys of several datasets.
    #[error("the listing is not within one dataset: give a longer prefix")]
    ListSpansDatasets,
    /// An upload whose length is unknown.
    #[error("the length of the upload must be declared")]
    LengthRequired,
    /// `tidegate-label` or `tidegate-residency` cannot be read.
    #[error("header `{0}` is invalid")]
    LabelInvalid(&'static str),
    /// `tidegate-residency` names a jurisdiction that the policies do not know.
    #[error("header `tidegate-residency` names an unknown jurisdiction")]
    JurisdictionUnknown,
    /// `tidegate-purpose` cannot be read.
    #[error("header `tidegate-purpose` must have 1 to 128 printable ASCII characters")]
    PurposeInvalid,
    /// The route leads to what the catalog does not know.
    #[error("the route is not configured completely")]
    Unconfigured,
}

/// What is wrong with a store request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// No operation of this form.
    #[error("use GetObject, HeadObject, PutObject, DeleteObject or ListObjectsV2, path-style")]
    Form,
    /// A query parameter that the operation may not have.
    #[error("query parameter `{0}`")]
    Query(String),
    /// A query parameter with a value that stores could read differently.
    #[error("the value of query parameter `{0}`")]
    QueryValue(String),
    /// A header that the operation may not have.
    #[error("header `{0}`")]
    Header(String),
    /// The framing of the payload.
    #[error("the payload's framing")]
    Framing,
}

impl From<StoreFault> for InspectError {
    fn from(fault: StoreFault) -> Self {
        Self::StoreOperation(fault)
    }
}

impl InspectError {
    pub(super) const fn too_large(limit: u64) -> Self {
        Self::Body(HoldBodyError::Read(ReadBodyError::Fault(BodyFault::TooLarge(BodyTooLarge { limit }))))
    }

    /// Whether the same request may be served in a moment.
    #[must_use]
    pub const fn is_for_now(&self) -> bool {
        matches!(self, Self::Body(HoldBodyError::NoRoom))
    }

    /// The status that answers it.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::ContentType | Self::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Body(error) => error.status(),
            Self::ModelUnknown => StatusCode::NOT_FOUND,
            Self::DatasetUnknown | Self::ListSpansDatasets => StatusCode::FORBIDDEN,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::Unconfigured => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The stable code in answers, records and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ContentType => "content_type_unsupported",
            Self::ContentEncoding => "content_encoding_unsupported",
            Self::Body(error) => error.code(),
            Self::BodyInvalid(_) => "body_invalid",
            Self::BodyTooDeep => "body_too_deep",
            Self::BodyAmbiguous => "body_ambiguous",
            Self::BodyUnexpected => "body_unexpected",
            Self::ModelUnknown => "model_unknown",
            Self::StoreOperation(_) => "store_operation_unsupported",
            Self::DatasetUnknown => "dataset_unknown",
            Self::ListSpansDatasets => "list_spans_datasets",
            Self::LengthRequired => "length_required",
            Self::LabelInvalid(_) => "label_invalid",
            Self::JurisdictionUnknown => "jurisdiction_unknown",
            Self::PurposeInvalid => "purpose_invalid",
            Self::Unconfigured => "route_unconfigured",
        }
    }
}
