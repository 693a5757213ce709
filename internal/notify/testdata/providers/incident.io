## error
POST https://api.incident.io/v2/alert_events/http/01
Authorization: Bearer canary-s3cret
Content-Type: application/json

{
  "deduplication_key": "4ada5449-048d-4537-8123-24b4307593b1",
  "description": "kustomization path not found: ./nowhere\nsecond <line> & \"more\"",
  "metadata": {
    "change_request": "7",
    "kind": "Kustomization",
    "name": "shop",
    "namespace": "demo",
    "reason": "BuildFailed",
    "reportingController": "kustomize-controller",
    "revision": "main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae",
    "severity": "error",
    "team": "shop"
  },
  "status": "firing",
  "title": "kustomization/shop.demo"
}

## info
POST https://api.incident.io/v2/alert_events/http/01
Authorization: Bearer canary-s3cret
Content-Type: application/json

{
  "deduplication_key": "4ada5449-048d-4537-8123-24b4307593b1",
  "description": "Reconciliation finished",
  "metadata": {
    "change_request": "7",
    "kind": "Kustomization",
    "name": "shop",
    "namespace": "demo",
    "reason": "ReconciliationSucceeded",
    "reportingController": "kustomize-controller",
    "revision": "main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae",
    "severity": "info",
    "team": "shop"
  },
  "status": "resolved",
  "title": "kustomization/shop.demo"
}

