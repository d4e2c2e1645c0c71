data "google_project" "this" {}

locals {
  functions = toset(["admin", "tick", "worker", "metrics"])

  # Cloud Run's deterministic URL. A function's own `uri` is known only after it exists, but its URL is the audience that its
  # own environment has to name: a cycle. This one is known beforehand, and Cloud Run accepts it as an audience like the other.
  # https://cloud.google.com/run/docs/triggering/https-request#deterministic
  urls = {
    for name in local.functions :
    name => "https://chandler-${name}-${data.google_project.this.number}.${var.region}.run.app"
  }
}

resource "google_project_service" "apis" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudscheduler.googleapis.com",
    "iam.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
  ])
  service            = each.value
  disable_on_destroy = false
}
