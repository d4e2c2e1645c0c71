resource "google_cloud_scheduler_job" "tick" {
  name      = "chandler-tick"
  region    = var.region
  schedule  = "* * * * *"
  time_zone = "Etc/UTC"
  # Longer than a tick can take: one that is given up while it runs would be sent again.
  attempt_deadline = "180s"

  # The next minute comes anyway, and it catches up.
  retry_config {
    retry_count = 0
  }

  http_target {
    http_method = "POST"
    uri         = "${local.urls.tick}/"
    oidc_token {
      service_account_email = google_service_account.scheduler.email
      audience              = local.urls.tick
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.invokers]
}
