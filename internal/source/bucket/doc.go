// Package bucket fetches what Buckets name: the objects of an S3-compatible store, Google Cloud Storage or Azure Blob
// Storage.
//
// A bucket is listed at every interval, and the list alone (keys and ETags) gives the revision. Objects are downloaded only
// when it has changed, and of those only the ones whose ETag is not the one that they had in the snapshot before.
package bucket
