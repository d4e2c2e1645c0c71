# One upload for all functions: what .gcloudignore lets through, and nothing else.
locals {
  root = abspath("${path.module}/../..")
  source_files = [
    for file in setunion(["main.py", "requirements.txt"], fileset(local.root, "functions/**"), fileset(local.root, "shared/**")) :
    file if !strcontains(file, "__pycache__/") && !endswith(file, ".pyc")
  ]
}

data "archive_file" "source" {
  type        = "zip"
  output_path = "${path.module}/.terraform/source.zip"

  dynamic "source" {
    for_each = local.source_files
    content {
      filename = source.value
      content  = file("${local.root}/${source.value}")
    }
  }
}

resource "google_storage_bucket" "source" {
  name                        = "${var.project}-chandler-source"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true
  depends_on                  = [google_project_service.apis]
}

resource "google_storage_bucket_object" "source" {
  # The hash in the name is what makes a changed source a new deployment.
  name   = "source-${data.archive_file.source.output_sha256}.zip"
  bucket = google_storage_bucket.source.name
  source = data.archive_file.source.output_path
}
