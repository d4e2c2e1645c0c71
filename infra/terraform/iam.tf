# One account per function, with no role in the project: each may read its own secrets, and tick may call worker.
resource "google_service_account" "functions" {
  for_each     = local.functions
  account_id   = "chandler-${each.key}"
  display_name = "Chandler ${each.key}"
  depends_on   = [google_project_service.apis]
}

resource "google_service_account" "scheduler" {
  account_id   = "chandler-scheduler"
  display_name = "Chandler scheduler, which may call tick"
  depends_on   = [google_project_service.apis]
}

resource "google_service_account" "build" {
  account_id   = "chandler-build"
  display_name = "Chandler build, which makes the functions' images"
  depends_on   = [google_project_service.apis]
}

resource "google_project_iam_member" "build" {
  project = var.project
  role    = "roles/cloudbuild.builds.builder"
  member  = google_service_account.build.member
}

resource "google_secret_manager_secret_iam_member" "accessors" {
  for_each = merge([
    for name in local.functions : {
      for variable, secret in local.secret_environment[name] : "${name}/${variable}" => { function = name, secret = secret }
    }
  ]...)
  project   = var.project
  secret_id = each.value.secret
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.functions[each.value.function].member
}

# Who may call what. On the Cloud Run service beneath the function: the functions' own IAM resource refuses run.invoker
# (hashicorp/terraform-provider-google#15264). No replace_triggered_by: it would take the right away for some minutes at every
# deployment; instead apply once more if a function was made anew (`-replace`), which drops its bindings.
locals {
  invokers = {
    tick   = google_service_account.scheduler.member
    worker = google_service_account.functions["tick"].member
    # Open at the door, because Prometheus and people have no Google account: both check their own tokens.
    admin   = "allUsers"
    metrics = "allUsers"
  }
}

resource "google_cloud_run_v2_service_iam_member" "invokers" {
  for_each = local.invokers
  project  = var.project
  location = var.region
  name     = google_cloudfunctions2_function.functions[each.key].name
  role     = "roles/run.invoker"
  member   = each.value
}
